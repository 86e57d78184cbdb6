"""Small entries that the journal's tests write."""

from __future__ import annotations

from pathlib import Path

from midcourse.controller.journal import Journal
from midcourse.monitors.types import Sample
from midcourse.policies.types import Action, Decision, Disposition


def started(run: Path, **options: object) -> Journal:
    """A journal in which an attempt has begun."""
    journal = Journal.open(run, **options)  # type: ignore[arg-type]
    journal.begin(
        argv=["train.py", "--lr", "1e-3"],
        policy_text="version: 1\nmonitors:\n  blowup: {type: divergence, signal: loss}\n",
        policy_source="policy.yaml",
        mode="act",
        versions={"midcourse": "0"},
        facts={"reach": 1000},
    )
    return journal


def sample(tick: int, **signals: float) -> Sample:
    return Sample(step=tick, tick=tick, branch=0, signals=signals or {"loss": float(tick)})


def decision(tick: int, rule: str = "off-course", instance: str = "") -> Decision:
    label = f"{rule}[{instance}]" if instance else rule
    return Decision(
        id=f"{label}@{tick}",
        rule=rule,
        instance=instance,
        tick=tick,
        step=tick,
        branch=0,
        disposition=Disposition.ACT,
        rung=0,
        actions=(Action("rollback", {"to": "before_onset", "data": "skip"}),),
        onset=tick - 7,
        reason="blowup.bad; blowup alarm (2 of 3 beyond 10 noises)",
        facts={"blowup": {"value": 5.31, "level": 2.4, "noise": 0.05, "score": 58.0, "threshold": 10.0}},
    )
