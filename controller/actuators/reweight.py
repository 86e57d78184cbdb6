"""``reweight``: scale or set a source's weight in the training mixture; 0 is quarantine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.types import Decision
from ..mix import target
from ..overrides import Kind, Layer
from ..run import Run
from .effect import Effect, Refused


def reweight(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Lay a weight override on one source, in force from the very next batch; its ramp is probation."""
    mix = run.mix
    if mix is None:
        raise Refused("the training loader is not a Mixture, so no source can be reweighted")
    source, tick = params["source"], run.clock.tick + 1
    if source not in mix.names:
        raise Refused(f"no source {source!r} in the mixture; it has {', '.join(mix.names)}")
    kind, value = (Kind.SET, params["to"]) if params["to"] is not None else (Kind.SCALE, params["scale"])
    before, state = dict(mix.applied), mix.state_dict()
    run.layers.add(Layer(decision.id, target(source), kind, value, tick, params["hold"], params["ramp"]))
    if sum(mix.wanted(tick).values()) <= 0.0:
        raise Refused(f"without {source!r} no source would be left to draw from")
    try:
        mix.apply_now(tick)
    except Exception:
        mix.put_back(state)
        raise
    return Effect(
        {"weights_before": before, "weights_after": dict(mix.applied)}, undo=lambda: mix.put_back(state)
    )
