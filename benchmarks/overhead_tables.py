"""The benchmark of costs in tables, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import columns


def of(result: Mapping[str, Any]) -> str:
    """All that was measured."""
    about = result["machine"]
    parts = [
        f"{about['processor']}, {about['cores']} cores, Python {about['python']}, torch {about['torch']}; "
        f"one thread, policy {result['policy']}, {result['ticks']} ticks"
    ]
    for name, table in _TABLES.items():
        if name in result:
            parts += table(result[name])
    return "\n\n".join(parts)


def _tick(told: Mapping[str, Any]) -> list[str]:
    costs = [("a tick of the bare loop", told["bare_us"])]
    costs += [(f"  beyond it: {name.replace('_', ' ')}", us) for name, us in told["extra_us"].items()]
    costs += [(f"    {part}", us) for part, us in told["parts_us"].items()]
    costs += [("one measurement of the norms", told["norms_us"])]
    costs += [("  moment_lag beside them, where a policy reads it", told["moment_lag_us"])]
    costs += [("one snapshot", told["snapshot_us"])]
    costs += [("the journal's thread, a tick", told["journal_thread_us"])]
    rows = [("", "us"), *((name, f"{us:.1f}") for name, us in costs)]
    steps = [["a step of", "each tick", "norms", "snapshots", "total us", "share"]]
    for entry in told["at_step"]:
        each = [f"{entry[f'{what}_us']:.1f}" for what in ("tick", "norms", "snapshots", "total")]
        steps.append([f"{entry['step_ms']} ms", *each, f"{100 * entry['share']:.3f} %"])
    return [columns(rows), columns(steps)]


def _scaling(told: Mapping[str, Any]) -> list[str]:
    tables = []
    for what, line in told.items():
        low, _, high = line["slope_quartiles_us"]
        rows = [[what, *line["extra_us"]], ["us a tick", *(f"{us:.1f}" for us in line["extra_us"].values())]]
        slope = f"one more: {line['slope_us']:.2f} us a tick (quartiles of the turns: {low} to {high})"
        tables.append(columns(rows) + "\n" + slope)
    return tables


def _allocations(told: Mapping[str, Any]) -> list[str]:
    names = {
        "peak_bytes": "bytes at a tick's peak",
        "waiting_bytes": "bytes at its end",
        "kept_blocks": "blocks that stay, a tick",
        "collections_0": "collections in 1000 ticks, youngest",
        "collections_1": "  middle",
        "collections_2": "  all",
    }
    rows = [["", "bare", "steered", "ours"]]
    rows += [[words, *(f"{told[a][n]:.1f}" for a in ("bare", "act", "ours"))] for n, words in names.items()]
    return [columns(rows)]


def _long(told: Mapping[str, Any]) -> list[str]:
    tables = []
    for name, course in told.items():
        rows = [[name, "us a tick", "lines a tick", "RSS MiB", "objects", "state kB", "journal bytes a tick"]]
        for look in course["looks"]:
            sizes = [f"{look['rss_bytes'] / 2**20:.1f}", str(look["objects"])]
            sizes += [f"{look['state_bytes'] / 1e3:.1f}", f"{look['journal_bytes_a_tick']:.1f}"]
            rows.append([str(look["tick"]), f"{look['tick_us']:.1f}", f"{look['lines_a_tick']:.1f}", *sizes])
        grows = ", ".join(
            f"{what} {100 * course['growth_of_last_half'][what]:+.2f} %" for what in course["grows"]
        )
        tables.append(columns(rows) + f"\nin its last half: {'steady' if course['steady'] else grows}")
    return tables


def _device(told: Mapping[str, Any]) -> list[str]:
    error, waits = told["forbidden"], told["waits_a_tick"]
    verdict = error["raised"] or (
        f"{error['unwatched']} ticks unwatched" if error["unwatched"] else "none was made"
    )
    lines = [f"{told['name']}; synchronisations forbidden for {error['ticks']} ticks: {verdict}"]
    rows = [[f"beside {told['bare_ms']:.2f} ms", "waits a tick", "us", "us of the host"]]
    rows.append(["bare", f"{waits['bare']:.2f}", "", ""])
    for name, us in told["extra_us"].items():
        rows.append([name, f"{waits[name]:.2f}", f"{us:.1f}", f"{told['extra_host_us'][name]:.1f}"])
    copies = [["a snapshot", "MB", "step ms", "stall ms"]]
    for name, found in told["snapshot"].items():
        figures = [f"{found['bytes'] / 1e6:.0f}", f"{found['step_ms']:.2f}", f"{found['stall_ms']:.2f}"]
        copies.append([name.replace("_", " "), *figures])
    return [*lines, columns(rows), columns(copies)]


_TABLES = {
    "tick": _tick,
    "scaling": _scaling,
    "allocations": _allocations,
    "long": _long,
    "device": _device,
}
