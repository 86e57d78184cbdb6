"""What Midcourse can and cannot do in this run, said once at its start (law 12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..policies.policy import CheckpointFormat, Mode, Policy
from ..policies.regulators.law import MIX
from ..policies.smells import smells_of
from . import streams
from .run import Run

LOSS = (
    "as given to accelerator.backward, mean over a tick's micro-batches; what the loop divided or multiplied "
    "by their number is undone (controller.log(loss=...) overrides)"
)
NEEDS_COUNTER = (
    "the loop's counter is its own: count with controller.epochs(n) or controller.steps(n) "
    "to have the data rewound"
)
NEEDS_LOADER = (
    "the training loader was not prepared by accelerator.prepare, so its place in the data is unknown"
)
NEEDS_SCHEDULE = (
    "a scheduler drives the optimizer that Accelerate did not prepare: prepare it, or "
    "controller.register('scheduler', scheduler), to have it rewound"
)

NO_SNAPSHOTS = "none are kept"
NO_CHECKPOINTS = "none are written; checkpoints: {every: 1000} in the policy lets a run that dies be resumed"
NOT_DETERMINISTIC = (
    "kernels of this device may differ in the last bits from run to run: for replays that are exact, "
    "torch.use_deterministic_algorithms(True)"
)
UNEVEN = (
    "even_batches=False: a process that has fewer batches than the others would leave them waiting for its "
    "signals; let all have as many"
)


@dataclass(frozen=True, slots=True)
class StartReport:
    """The report, as facts for the journal and as lines for people."""

    facts: dict[str, Any]
    lines: list[str] = field(default_factory=list)


def why_not_rewind(run: Run, counter_owned: bool) -> str | None:
    """The reason why data cannot be rewound in this loop; None where it can."""
    if run.feed is None:
        return NEEDS_LOADER
    if not counter_owned:
        return NEEDS_COUNTER
    if not run.state.schedule_is_known:
        return NEEDS_SCHEDULE
    return streams.why_not_anew(run.feed.loader)


def report(run: Run, policy: Policy, mode: Mode, notices: list[str]) -> StartReport:
    """Gather the report when the first batch has been trained on."""
    mixture = None if run.feed is None else run.feed.mixture
    sources = [] if mixture is None else list(mixture.names)
    tensors = run.state.tensors_as_they_stand()
    smells = list(map(str, smells_of(policy)))
    size = sum(t.numel() * t.element_size() for t in tensors)
    facts: dict[str, Any] = {
        "mode": mode.value,
        "policy": policy.source,
        "loss": LOSS,
        "processes": run.ranks.world,
        "sources": sources,
        "registered": list(run.state.registered),
        "rewind": run.rewinds is None,
        "state_bytes": size,
        "snapshots": {
            "keep": run.ring.keep,
            "every": run.ring.cadence,
            "reach": run.ring.reach,
            "store": policy.snapshots.store.value,
            "bytes": run.ring.bytes_when_full(tensors),
        },
        "smells": smells,
        "regulators": [spec.name for spec in policy.regulators],
        "notices": notices,
    }
    ways_on = "forward, skip and replay" if run.rewinds is None else f"forward only: {run.rewinds}"
    lines = [
        f"mode {mode.value}, policy {policy.source}: "
        f"{len(policy.monitors)} monitors, {len(policy.rules)} rules; run folder {run.directory}",
        f"loss: {LOSS}",
        f"data: {_data(sources, run)}",
        f"rollback goes on by {ways_on}",
        f"snapshots: {_snapshots(run, policy, tensors) if mode is Mode.ACT else NO_SNAPSHOTS}",
        f"checkpoints: {_checkpoints(run)}",
        *([f"regulators: {_regulators(policy)}"] if policy.regulators else []),
        *smells,
        *notices,
    ]
    if policy.tries and run.rewinds is not None:
        lines.append(f"trials will be refused: {run.rewinds}")
    if run.rewinds is None and run.accelerator.device.type != "cpu" and not _is_deterministic():
        lines.append(NOT_DETERMINISTIC)
    if run.ranks.world > 1 and not run.accelerator.even_batches:
        lines.append(UNEVEN)
    return StartReport(facts, lines)


def _checkpoints(run: Run) -> str:
    plan = run.checkpoints.plan
    if plan.every is None:
        return NO_CHECKPOINTS
    written = "in the background"
    if plan.format is CheckpointFormat.ACCELERATE:
        written = "by accelerator.save_state, which the training waits for"
    return f"every {plan.every} ticks to {run.checkpoints.folder}, {written}; {plan.keep} are kept"


def _regulators(policy: Policy) -> str:
    return "; ".join(
        f"{spec.name} sets {'the mix' if spec.actuator == MIX else spec.actuator} "
        f"by {spec.law} of {spec.signal} every {spec.every} ticks"
        for spec in policy.regulators
    )


def _is_deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled()


def _snapshots(run: Run, policy: Policy, tensors: list[torch.Tensor]) -> str:
    ring = run.ring
    if not ring.keep:
        return NO_SNAPSHOTS
    whole = ring.bytes_when_full(tensors)
    return (
        f"{ring.keep} of {whole / (ring.keep + ring.spares) / 2**20:.1f} MiB in the memory of the "
        f"{policy.snapshots.store.value}, {whole / 2**20:.1f} MiB when full with {ring.spares} to spare, "
        f"every {ring.cadence} ticks, reaching {ring.reach} back"
    )


def _data(sources: list[str], run: Run) -> str:
    if sources:
        return f"a mixture of {', '.join(sources)}; sources can be reweighted"
    if run.feed is None:
        return "a loader of the loop's own; acts are applied after the optimizer's step"
    return "a plain loader; sources cannot be reweighted"
