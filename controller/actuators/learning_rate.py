"""``scale_lr``, ``set_lr`` and ``restore_lr``: layers over the user's schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.actions import Data
from ...policies.types import Decision
from ..learning_rate import TARGET
from ..overrides import Kind, Layer
from ..run import Run
from .effect import Effect, Refused

_REWINDS = (Data.SKIP.value, Data.REPLAY.value)
_HAS_RISEN = 1.1  # less would mend nothing


def scale_lr(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Multiply the scheduled rate by ``factor`` for ``hold`` ticks, then ramp back."""
    return _add(run, decision, Kind.SCALE, params["factor"], params)


def set_lr(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Replace the scheduled rate by ``to`` for ``hold`` ticks, then ramp back to the schedule."""
    return _add(run, decision, Kind.SET, params["to"], params)


def restore_lr(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Lower the rate by as much as it has risen: since the target of a rollback that took the schedule back,
    else (there was none, or the loop allows none) above its level of late, if the rule's condition reads it.

    After a rollback whatever makes it rise comes again, but leads to the rate that did well before. Refused
    where it has not risen, or from 0, so that the next rung is taken.
    """
    last = run.learning_rate.effective
    if run.returned_to is not None and any(a.params.get("data") in _REWINDS for a in decision.actions):
        # By the overrides of that time: one that came since may have taken the rise back already.
        then = run.learning_rate.rates(run.returned_to + 1)[0]
    else:
        then = decision.facts.get(TARGET, {}).get("level", last)
    if then == 0.0:
        raise Refused("the learning rate was 0 before: to go back to that would end the learning")
    if not last > _HAS_RISEN * then:
        raise Refused(f"the learning rate has not risen: {last:.4g} at the last update, {then:.4g} before")
    return _add(run, decision, Kind.SCALE, then / last, params)


def _add(run: Run, decision: Decision, kind: Kind, value: float, params: Mapping[str, Any]) -> Effect:
    tick = run.clock.tick + 1
    before = run.learning_rate.rates(tick)
    run.layers.add(Layer(decision.id, TARGET, kind, value, tick, params["hold"], params["ramp"]))
    after = run.learning_rate.rates(tick)
    return Effect({"lr_before": before, "lr_after": after}, announces=frozenset({TARGET}))
