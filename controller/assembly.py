"""Puts the parts of a run together once its optimizer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..policies.policy import Mode, Policy
from .clock import Clock, Trail
from .cycle import Cycle, delays
from .learning_rate import LearningRate
from .loader import Feed
from .norms import Norms
from .overrides import Layers
from .ranks import Ranks
from .records import Records
from .ring import Ring
from .run import Rollback, Run
from .shards import local
from .signals import Recorder
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
    return Run(
        accelerator=accelerator,
        optimizer=optimizer,
        directory=directory,
        clock=Clock(),
        # Twice the reach: what an alarm undoes may lie that far back, and its window begins there.
        trail=Trail(2 * plan.reach),
        ranks=ranks,
        layers=layers,
        learning_rate=LearningRate(optimizer, layers),
        ring=Ring(plan.keep, plan.reach, plan.every, plan.max_overhead, clock=clock),
        state=TrainingState(accelerator, optimizer),
        detectors=NoDetectors() if records is None else records.pilot.bank,
        on_rollback=on_rollback,
    )


def assemble_cycle(
    run: Run,
    policy: Policy,
    recorder: Recorder,
    records: Records | None,
    *,
    norms_every: int | None,
    on_feed: Callable[[Feed | None], None],
    clock: Callable[[], float],
) -> tuple[Cycle, list[str]]:
    """The cycle that carries the run, and what must be said of it at start."""
    notices: list[str] = []
    trained = [p for group in run.optimizer.param_groups for p in group["params"] if p.requires_grad]
    acting = policy.mode is Mode.ACT
    if acting and (notice := _fit(run, trained)):
        notices.append(notice)
    norms = Norms(trained, norms_every, clock)
    recorder.spread_norms = norms.spread
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
        on_feed=on_feed,
        clock=clock,
    )
    return cycle, notices


def _fit(run: Run, trained: list[torch.Tensor]) -> str | None:
    """Fit the ring into memory, alike on all processes: they must have the same snapshots to go back to."""
    notice = run.ring.fit(map(local, trained), sharers=run.ranks.on_this_host())
    fits = run.ranks.gather(run.ring.keep)
    if min(fits) < run.ring.keep:
        run.ring.keep = min(fits)
        poorest = fits.index(run.ring.keep)
        notice = f"process {poorest} has memory for {run.ring.keep} snapshots only: all keep as many"
    return notice


class NoDetectors:
    """On ranks other than 0 nothing is sensed, so nothing is to be restored."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take over."""

    def facts(self) -> dict[str, dict[str, float]]:
        """Nothing."""
        return {}
