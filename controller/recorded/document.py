"""A backtest as plain values, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...policies.model import Policy
from ...policies.types import Decision, Verdict
from .backtest import Backtest, Course
from .scores import Scores


def document(policy: Policy, tests: Sequence[Backtest], scores: Scores | None) -> dict[str, Any]:
    """All of it, runs in the order in which they were given; ``scores`` is None without labels."""
    return {
        "policy": policy.source,
        "ok": True,
        "runs": [_run(test) for test in tests],
        "scores": scores
        and {
            "runs": scores.runs,
            "rules": {name: score.to_json() for name, score in scores.rules.items()},
            "monitors": {name: score.to_json() for name, score in scores.monitors.items()},
        },
    }


def _run(test: Backtest) -> dict[str, Any]:
    return {
        "run": test.recording.name,
        "samples": test.samples,
        "notes": list(test.recording.notes),
        "missing": [asdict(missing) for missing in test.missing],
        "attempts": [_course(course) for course in test.courses],
    }


def _course(course: Course) -> dict[str, Any]:
    parted, compared = course.difference, course.comparison
    return {
        "attempt": course.number,
        "resumed_after": course.resumed,
        "samples": len(course.ticks),
        "decisions": [
            {
                **_said(each),
                "onset_step": _step(course, each.onset),
                "evidence": course.is_evidence(each.tick),
            }
            for each in course.decisions
        ],
        "verdicts": [{**_said(each), "evidence": course.is_evidence(each.tick)} for each in course.verdicts],
        "alarms": [{**alarm._asdict(), "onset_step": _step(course, alarm.onset)} for alarm in course.alarms],
        "evidence_until": parted
        and {"tick": parted.tick, "by": "policy" if parted.by_policy else "run", "act": _said(parted.act)},
        "own_policy": compared
        and {
            "identical": compared.identical,
            "replayed": compared.replayed and _said(compared.replayed),
            "journalled": compared.journalled and _said(compared.journalled),
        },
    }


def _said(said: Decision | Verdict) -> dict[str, Any]:
    """Without the readings of all monitors, which a decision carries for its verdict."""
    return {key: value for key, value in asdict(said).items() if key != "facts"}


def _step(course: Course, tick: int | None) -> int | None:
    return None if tick is None else course.step_at(tick)
