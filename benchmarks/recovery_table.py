"""Figures and tables of the recovery benchmark, from its runs: what `recovery.py` says in its docstring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from recovery_arms import NONE, PEERS
from recovery_faults import CLEAN, FAULTS, START
from recovery_run import CLIPPED, HINDSIGHT, MIDCOURSE

ORACLE = "oracle"  # the clean run, in the tables of a fault
BY_NOISE = 3  # standard deviations between seeds that count as a difference
_DRAWS = 4000
_OURS = (MIDCOURSE, CLIPPED)

Run = Mapping[str, Any]
Key = tuple[str, str, str, int]


def key(run: Run) -> Key:
    """World, fault, arm and seed: what names a run."""
    return run["world"], run["fault"], run["arm"], run["seed"]


def final(run: Run, worst: bool = False) -> float:
    """The loss that counts; one beyond the untrained model's, or not finite, counts as that."""
    untrained = run["untrained"]
    ended = [untrained[name] if loss is None else loss for name, loss in run["loss"].items()]
    over = max if worst else mean
    return float(min(over(ended), over(untrained.values())))


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval over the seeds; ``low`` and ``high`` are None where there is one."""

    value: float
    low: float | None
    high: float | None


class Results:
    """All runs, and what is read off them.

    Args:
        runs: As `recovery_run.run` gives them.
        seeds: Those that are reported; other seeds served to choose in hindsight, and tell the noise too.
    """

    def __init__(self, runs: Iterable[Run], seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self._runs = {key(run): run for run in runs}

    def of(self, world: str, fault: str, arm: str) -> list[Run]:
        """The reported runs of an arm, in the order of the seeds; those that are missing are left out."""
        named = (CLEAN, NONE) if arm == ORACLE else (fault, arm)
        return [run for seed in self.seeds if (run := self._runs.get((world, *named, seed)))]

    def noise(self, world: str, worst: bool = False) -> float:
        """Standard deviation of the clean run's final loss between seeds, tuning seeds included."""
        clean = [
            final(r, worst) for (w, f, a, _), r in self._runs.items() if (w, f, a) == (world, CLEAN, NONE)
        ]
        return stdev(clean) if len(clean) > 1 else 0.0

    def chosen(self, world: str, fault: str, tuning: Sequence[int]) -> str | None:
        """The arm that was best on the tuning seeds: a sequence told in hindsight, or no control."""
        tried: dict[str, list[float]] = {}
        for (w, f, arm, seed), run in self._runs.items():
            if (w, f) == (world, fault) and seed in tuning and (arm == NONE or arm.startswith(HINDSIGHT)):
                tried.setdefault(arm, []).append(final(run, FAULTS[fault].worst))
        whole = {arm: mean(losses) for arm, losses in tried.items() if len(losses) == len(tuning)}
        return min(whole, key=lambda arm: whole[arm]) if whole else None


def judge(results: Results, world: str, fault: str, arm: str, best: str | None) -> dict[str, Any]:
    """One cell: an arm against one fault; ``best`` is the arm that hindsight chose."""
    worst, noise = FAULTS[fault].worst, results.noise(world, FAULTS[fault].worst)
    sources = {NONE: NONE, ORACLE: ORACLE, HINDSIGHT: best, arm: best if arm == HINDSIGHT else arm}
    runs = {
        name: {run["seed"]: run for run in results.of(world, fault, source)} if source else {}
        for name, source in sources.items()
    }
    own = runs[arm]
    paired = [seed for seed in own if seed in runs[NONE]]
    ended = {name: {seed: final(run, worst) for seed, run in group.items()} for name, group in runs.items()}
    better = {seed: ended[NONE][seed] - ended[arm][seed] for seed in paired}
    bar = BY_NOISE * noise
    cell: dict[str, Any] = {
        "world": world,
        "fault": fault,
        "arm": arm,
        "seeds": len(paired),
        "loss": _estimate(list(ended[arm].values())),
        "better": _estimate(list(better.values())),
        "harm": sum(gain < -bar for gain in better.values()),
        **_delays(list(own.values())),
        "lost": mean(run["lost"] for run in own.values()) if own else None,
        "overhead": mean(run["ticks"] / run["steps"] - 1 for run in own.values()) if own else None,
        "stopped": sum(run["stopped"] for run in own.values()),
        "changes": sum(len(run["acts"]) for run in own.values()),
    }
    for limit in (HINDSIGHT, ORACLE):
        gaps = {seed: ended[NONE][seed] - ended[limit][seed] for seed in paired if seed in ended[limit]}
        open_ = bool(gaps) and mean(gaps.values()) > bar
        pairs = [(better[seed], gaps[seed]) for seed in gaps]
        cell[f"gap_{limit}"] = mean(gaps.values()) if gaps else None
        cell[f"recovered_{limit}"] = _ratio(pairs) if open_ else None
        cell[f"median_{limit}"] = median(gain / gap for gain, gap in pairs) if open_ else None
    return cell


def _delays(runs: Sequence[Run]) -> dict[str, Any]:
    """Steps from the first faulty one to the first act, and to the first alarm that a rule reads."""
    told: dict[str, Any] = {}
    for name in ("acts", "alarms"):
        first = [min((t for t in run[name] if t > START), default=None) for run in runs]
        found = [tick - START - 1 for tick in first if tick is not None]
        told[f"{name}_found"] = len(found)
        told[f"{name}_delay"] = median(found) if found else None
    return told


def _estimate(values: Sequence[float]) -> dict[str, float | None] | None:
    return _ratio([(value, 1.0) for value in values]) if values else None


def _ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Sum over sum, with a bootstrap over the seeds: a ratio for each seed would divide by small gaps."""
    table = np.array(pairs)
    value = float(table[:, 0].sum() / table[:, 1].sum())
    if len(pairs) == 1:
        return {"value": value, "low": None, "high": None}
    drawn = table[np.random.default_rng(0).integers(len(pairs), size=(_DRAWS, len(pairs)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return {"value": value, "low": float(low), "high": float(high)}


def tables(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, for each world: what was recovered, how soon and at what cost; then the controls."""
    parts = []
    for world in dict.fromkeys(cell["world"] for cell in cells):
        own = [cell for cell in cells if cell["world"] == world]
        faulty = [cell for cell in own if not FAULTS[cell["fault"]].healthy]
        healthy = [cell for cell in own if FAULTS[cell["fault"]].healthy]
        if faulty:
            parts += [f"### {world}: share of the gap to hindsight that was recovered", _shares(faulty)]
            parts += [f"### {world}: losses, delays and costs", _costs(faulty)]
        if healthy:
            parts += [f"### {world}: nothing is wrong", _controls(healthy)]
    return "\n\n".join(parts)


def summary(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the baseline policy and the best of the others, fault by fault, and what it costs."""
    by = {(cell["world"], cell["fault"], cell["arm"]): cell for cell in cells if cell["seeds"]}
    peers = [arm for arm in PEERS if arm != NONE]
    rows = [["fault", "gap", MIDCOURSE, "median", "act after", "more steps", "best of the others"]]
    for (world, fault, arm), own in by.items():
        if arm != MIDCOURSE or FAULTS[fault].healthy or own[f"gap_{HINDSIGHT}"] is None:
            continue
        others = [by[world, fault, peer] for peer in peers if (world, fault, peer) in by]
        best = max(others, key=lambda cell: cell["better"]["value"], default=None)
        middle, delay = own[f"median_{HINDSIGHT}"], own["acts_delay"]
        rows.append(
            [
                f"{world}: {FAULTS[fault].about}",
                f"{own[f'gap_{HINDSIGHT}']:.3f}",
                _share(own),
                "" if middle is None else f"{100 * middle:.0f} %",
                "" if delay is None else f"{delay:g}",
                f"{100 * own['overhead']:+.0f} %",
                "" if best is None else f"{best['arm']}: {_share(best)}",
            ]
        )
    return markdown(rows) if len(rows) > 1 else ""


def _shares(cells: Sequence[Mapping[str, Any]]) -> str:
    arms = [arm for arm in dict.fromkeys(cell["arm"] for cell in cells) if arm not in (NONE, HINDSIGHT)]
    by = {(cell["fault"], cell["arm"]): cell for cell in cells}
    rows = [["fault", "gap", *arms]]
    for fault in dict.fromkeys(cell["fault"] for cell in cells):
        gap = by[fault, NONE][f"gap_{HINDSIGHT}"] if (fault, NONE) in by else None
        row = [FAULTS[fault].about, "" if gap is None else f"{gap:.3f}"]
        rows.append(row + [_share(by[fault, arm]) if (fault, arm) in by else "" for arm in arms])
    return markdown(rows)


def _share(cell: Mapping[str, Any]) -> str:
    """A percentage; in words where there is no gap to close; marked where a run was made worse."""
    if not cell["seeds"]:
        return ""
    share = cell[f"recovered_{HINDSIGHT}"]
    if share is None:
        return f"worse in {cell['harm']}" if cell["harm"] else "not worse"
    said = f"{100 * share['value']:.0f} %"
    if share["low"] is not None:
        said += f" ({100 * share['low']:.0f} to {100 * share['high']:.0f})"
    return said + (f", worse in {cell['harm']}" if cell["harm"] else "")


def _costs(cells: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        ["fault", "arm", "final loss", "of oracle's gap", "alarm", "act", "lost", "more steps", "stopped"]
    ]
    for cell in cells:
        if not cell["seeds"]:
            continue
        share = cell[f"recovered_{ORACLE}"]
        delays = [
            "" if cell[f"{name}_delay"] is None else f"{cell[f'{name}_delay']:g} ({cell[f'{name}_found']})"
            for name in ("alarms", "acts")
        ]
        rows.append(
            [
                cell["fault"],
                cell["arm"],
                _with_interval(cell["loss"]),
                "" if share is None else f"{100 * share['value']:.0f} %",
                *delays,
                f"{cell['lost']:.0f}",
                f"{100 * cell['overhead']:+.0f} %",
                str(cell["stopped"] or ""),
            ]
        )
    return markdown(rows)


def _controls(cells: Sequence[Mapping[str, Any]]) -> str:
    rows = [["run", "arm", "runs", "changes made", "against no control", "worse in"]]
    for cell in cells:
        if cell["arm"] != NONE and cell["seeds"]:
            gain = {name: None if v is None else 0.0 - v for name, v in cell["better"].items()}
            gain["low"], gain["high"] = gain["high"], gain["low"]
            changed = [str(cell["seeds"]), str(cell["changes"]), _with_interval(gain, "+"), str(cell["harm"])]
            rows.append([FAULTS[cell["fault"]].about, cell["arm"], *changed])
    return markdown(rows)


def _with_interval(estimate: Mapping[str, float | None], sign: str = "") -> str:
    said = f"{estimate['value']:{sign}.3f}"
    if estimate["low"] is not None:
        said += f" ({estimate['low']:{sign}.3f} to {estimate['high']:{sign}.3f})"
    return said


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its first row the head."""
    head, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])
