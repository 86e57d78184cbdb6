"""What a policy decides on a recorded run: the same samples, outcomes and commands give the same decisions.

The monitors and the engine see what they saw live, in the same order, so this serves to check a journal, to
test a policy on written series, and (in observe mode, with no outcomes) to try a policy on old runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..monitors.bank import MonitorBank
from ..monitors.plan import Plan
from ..monitors.types import Sample
from .engine import Engine
from .model import Policy
from .types import Outcome, Status, Turn


@dataclass(frozen=True, slots=True)
class Commanded:
    """A command that the engine was given, and at which tick."""

    command: str
    tick: int


@dataclass(frozen=True, slots=True)
class Planned:
    """What the monitors were told of the run's future."""

    plan: Plan


Event = Sample | Outcome | Commanded | Planned


def replay(policy: Policy, events: Iterable[Event]) -> Turn:
    """Drive monitors and engine through recorded events; returns all that the engine said, in order.

    Args:
        policy: the policy to decide by.
        events: in the order in which they happened, without the samples that a rollback dropped.
            An applied rollback puts the monitors back to how they stood after the tick that its outcome
            tells as ``details["rollback"]["target_tick"]``.

    Raises:
        ValueError: for a rollback to a tick that is not among the samples before it.
    """
    recorded = list(events)
    bank = MonitorBank(policy.monitors, policy.baselines)
    engine = Engine(policy, bank.lateness)
    targets = {_target(event) for event in recorded} - {None}
    states: dict[int, dict[str, Any]] = {}
    skipped: list[Outcome] = []
    said = Turn()
    for event in recorded:
        if isinstance(event, Sample):
            said.extend(engine.judge_step(event, bank.judge_step(event)))
            for outcome in skipped:
                said.extend(engine.record(outcome))
            skipped.clear()
            said.extend(engine.tick(event, bank.update(event)))
            if event.tick in targets:
                states[event.tick] = bank.state_dict()
        elif isinstance(event, Outcome) and _target(event) is None and not _answers(event, engine):
            # A step is skipped before its sample is complete, so this outcome was written before the sample.
            skipped.append(event)
        elif isinstance(event, Outcome):
            said.extend(engine.record(event))
            target = _target(event)
            if target is not None:
                if target not in states:
                    raise ValueError(
                        f"{event.decision_id} goes back to tick {target}, which was not replayed"
                    )
                bank.load_state_dict(states[target])
        elif isinstance(event, Planned):
            bank.plan(event.plan)
        else:
            said.extend(engine.command(event.command, event.tick))
    return said


def _answers(outcome: Outcome, engine: Engine) -> bool:
    return engine.in_flight is not None and engine.in_flight.id == outcome.decision_id


def _target(event: Event) -> int | None:
    """The tick that an applied rollback went back to."""
    if not isinstance(event, Outcome) or event.status is not Status.APPLIED:
        return None
    tick: int | None = event.details.get("rollback", {}).get("target_tick")
    return tick
