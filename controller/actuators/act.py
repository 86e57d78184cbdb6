"""A decision's actions, carried out as one: all of them or none, on every process alike."""

from __future__ import annotations

import logging
from typing import Any

from ...policies.types import Decision, Facts, Outcome, Status
from ..ranks import FailedElsewhere
from ..run import Run
from .checkpoint import checkpoint
from .effect import Actuator, Effect, Refused
from .learning_rate import scale_lr, set_lr
from .moments import reset_moments
from .notify import notify
from .reweight import reweight
from .rollback import rollback
from .skip_step import skip_step
from .stop import stop

log = logging.getLogger("midcourse")

ACTUATORS: dict[str, Actuator] = {
    "skip_step": skip_step,
    "scale_lr": scale_lr,
    "set_lr": set_lr,
    "reweight": reweight,
    "rollback": rollback,
    "checkpoint": checkpoint,
    "reset_moments": reset_moments,
    "notify": notify,
    "stop": stop,
}


def carry_out(run: Run, decision: Decision) -> Outcome:
    """Apply the actions in their order; if one fails on any process, all that was done is taken back."""
    tick = max(run.clock.tick, decision.tick)  # a step is skipped before its tick is counted
    effects: list[Effect] = []
    details: dict[str, Any] = {}
    facts: Facts = {}
    for action in decision.actions:
        failure: tuple[Status, str] | None = None
        try:
            effect = ACTUATORS[action.name](run, decision, action.params)
            effects.append(effect)
            details[action.name] = dict(effect.details)
            facts = effect.facts or facts
        except FailedElsewhere:
            pass  # the process on which it failed tells why
        except Refused as refusal:
            failure = (Status.REFUSED, f"{action.name}: {refusal}")
        except Exception as error:  # no failing act may kill the training
            log.exception("%s failed", action.name)
            failure = (Status.FAILED, f"{action.name}: {type(error).__name__}: {error}")
        answers = run.ranks.gather(failure)
        if any(answers):
            for done in reversed(effects):
                done.undo()
            run.layers.withdraw(decision.id)
            status, reason = _agreed(answers)
            return Outcome(decision.id, status, tick, reason)
    for effect in effects:
        effect.commit()
        run.expected.announce(effect.announces)
    return Outcome(decision.id, Status.APPLIED, tick, facts=facts, details=details)


def _agreed(answers: list[tuple[Status, str] | None]) -> tuple[Status, str]:
    """One outcome of what several processes say; it names the process where not all say the same."""
    failures = [(rank, *answer) for rank, answer in enumerate(answers) if answer is not None]
    rank, status, reason = failures[0]
    return status, reason if len(failures) == len(answers) else f"on process {rank}: {reason}"
