"""Puts the parts of a run together once its optimizer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..monitors.types import SUPPLY_PREFIX
from ..policies.policy import Mode, Policy
from .buffers import buffers_for
from .clock import Clock, Trail
from .cycle import Cycle, delays
from .durable.checkpoints import Checkpoints
from .feed import Feed
from .learning_rate import LearningRate
from .norms import Norms, why_no_lag
from .overrides import Layers
from .ranks import Ranks
from .records import Records
from .repeats import REPEATS, Repeats
from .ring import Ring
from .run import Rollback, Run
from .sensing import Sensing
from .shards import local
from .signals import Recorder
from .snapshots import fit_alike
from .termination import Termination
from .training_state import TrainingState

COSTS_A_WAIT = (
    "a rule may skip a step before it is made: loss and gradient norm are read before every step, "
    "which waits for the device once a step"
)


def assemble_run(
    accelerator: Any,
    optimizer: torch.optim.Optimizer,
    policy: Policy,
    ranks: Ranks,
    records: Records | None,
    directory: Path,
    on_rollback: list[Rollback],
    clock: Callable[[], float],
) -> Run:
    """The run around an inner torch optimizer, before its loader is known."""
    plan, layers = policy.snapshots, Layers()
    run = Run(
        accelerator=accelerator,
        optimizer=optimizer,
        directory=directory,
        clock=Clock(),
        # Twice the reach: what an alarm undoes may lie that far back, and its window begins there.
        trail=Trail(2 * plan.reach),
        ranks=ranks,
        layers=layers,
        learning_rate=LearningRate(optimizer, layers),
        ring=Ring(
            plan.keep,
            plan.reach,
            plan.every,
            plan.max_overhead,
            clock,
            buffers_for(accelerator.device, plan.store),
            spares=1 + (policy.checkpoints.every is not None) + policy.tries,
        ),
        state=TrainingState(accelerator, optimizer),
        checkpoints=Checkpoints(
            directory, policy.checkpoints, ranks, _untold if records is None else records.told
        ),
        on_rollback=on_rollback,
    )
    run.detectors = Sensing(run, None if records is None else records.pilot)
    return run


def assemble_cycle(
    run: Run,
    policy: Policy,
    recorder: Recorder,
    records: Records | None,
    *,
    norms_every: int | None,
    on_feed: Callable[[Feed | None], None],
    look_ahead: Callable[[], None] | None,
    report: Callable[[str | None], None],
    termination: Termination,
    leave: Callable[[], object],
    clock: Callable[[], float],
) -> tuple[Cycle, list[str]]:
    """The cycle that carries the run, and what must be said of it at start."""
    notices: list[str] = []
    trained = [p for group in run.optimizer.param_groups for p in group["params"] if p.requires_grad]
    acting = policy.mode is Mode.ACT
    if acting:
        tensors = [local(p) for p in trained]
        notice = fit_alike(run, lambda sharers: run.ring.fit(tensors, sharers=sharers))
        notices += [notice] if notice else []
    lag = policy.reads("moment_lag")
    norms = Norms(trained, norms_every, clock, run.optimizer if lag else None)
    if lag and (reason := why_no_lag(run.optimizer, spread=norms.spread)) is not None:
        notices.append(reason)
    recorder.spread_norms = norms.spread
    recorder.tells_supply = policy.reads(f"{SUPPLY_PREFIX}*")
    delayed = delays(policy, run.accelerator.device)
    if not delayed and run.accelerator.device.type != "cpu":
        notices.append(COSTS_A_WAIT)
    cycle = Cycle(
        run,
        recorder,
        norms,
        None if records is None else records.pilot,
        None if records is None else records.metrics,
        delayed=delayed,
        snapshots=acting,
        notices=notices,
        repeats=Repeats() if policy.reads(REPEATS) else None,
        on_feed=on_feed,
        look_ahead=look_ahead,
        report=report,
        termination=termination,
        leave=leave,
        clock=clock,
    )
    return cycle, notices


def _untold(kind: str, tick: int, detail: Mapping[str, Any]) -> None:
    """Ranks other than 0 keep no records."""
