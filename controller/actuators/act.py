"""A decision's actions, carried out as one: all of them or none, on every process alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ...policies.types import Decision, Facts, Outcome, Status
from ..ranks import FailedElsewhere
from ..run import Run
from .checkpoint import checkpoint
from .effect import Actuator, Effect, Refused
from .learning_rate import restore_lr, scale_lr, set_lr
from .moments import reset_moments
from .notify import notify
from .reweight import reweight
from .rollback import rollback
from .skip_step import skip_step
from .stop import stop

log = logging.getLogger("midcourse")

T = TypeVar("T")
Failure = tuple[Status, str]
"""REFUSED or FAILED, and why."""

ACTUATORS: dict[str, Actuator] = {
    "skip_step": skip_step,
    "scale_lr": scale_lr,
    "set_lr": set_lr,
    "restore_lr": restore_lr,
    "reweight": reweight,
    "rollback": rollback,
    "checkpoint": checkpoint,
    "reset_moments": reset_moments,
    "notify": notify,
    "stop": stop,
}
"""All but ``trial``, which takes its time: ``controller.trial`` runs it."""


def carry_out(run: Run, decision: Decision) -> Outcome:
    """Apply the actions in their order; if one fails on any process, all that was done is taken back."""
    tick = max(run.clock.tick, decision.tick)  # a step is skipped before its tick is counted
    effects: list[Effect] = []
    details: dict[str, Any] = {}
    facts: Facts = {}
    for action in decision.actions:
        actuator, params = ACTUATORS[action.name], action.params
        effect, failure = attempt(run, action.name, partial(actuator, run, decision, params))
        if effect is not None:
            effects.append(effect)
            details[action.name] = dict(effect.details)
            facts = effect.facts or facts
        if failure is not None:
            for done in reversed(effects):
                done.undo()
            run.layers.withdraw(decision.id)
            status, reason = failure
            return Outcome(decision.id, status, tick, reason)
    for effect in effects:
        effect.commit()
        run.expected.announce(effect.announces)
    return Outcome(decision.id, Status.APPLIED, tick, facts=facts, details=details)


def attempt(run: Run, name: str, part: Callable[[], T]) -> tuple[T | None, Failure | None]:
    """Do a part on all processes: its result here, and where it failed on any, what all say of it."""
    result: T | None = None
    failure: Failure | None = None
    try:
        result = part()
    except FailedElsewhere:
        pass  # the process on which it failed tells why
    except Refused as refusal:
        failure = (Status.REFUSED, f"{name}: {refusal}")
    except Exception as error:  # no failing act may kill the training
        log.exception("%s failed", name)
        failure = (Status.FAILED, f"{name}: {type(error).__name__}: {error}")
    answers = run.ranks.gather(failure)
    return result, _agreed(answers) if any(answers) else None


def _agreed(answers: list[Failure | None]) -> Failure:
    """One outcome of what several processes say; it names the process where not all say the same."""
    failures = [(rank, *answer) for rank, answer in enumerate(answers) if answer is not None]
    rank, status, reason = failures[0]
    return status, reason if len(failures) == len(answers) else f"on process {rank}: {reason}"
