"""The demo's result for people (rich tables) and for programs (JSON)."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .comparison import Arm, Comparison, Detection

TOLERANCE = 0.03
"""How much worse than its clean twin a run may end and still count as unharmed."""


def as_json(result: Comparison) -> dict[str, Any]:
    """Everything the tables show, as what ``json.dumps`` accepts."""
    faults = result.plan.faults
    assert faults is not None
    return {
        "seed": result.seed,
        "steps": result.plan.steps,
        "faults": [
            {
                "fault": detection.fault,
                "first_tick": detection.tick,
                "detected_tick": detection.alarm_tick,
                "detected_by": detection.alarm_by,
                "delay_steps": detection.delay,
                "corrected_tick": detection.act_tick,
            }
            for detection in result.detections
        ],
        "acts": [
            {
                "tick": act.tick,
                "rule": act.rule,
                "actions": list(act.actions),
                "status": act.status,
                "verdict": act.verdict or None,
            }
            for act in result.acts
        ],
        "acts_before_first_fault": result.acts_before_first_fault(),
        "runs": {
            arm.value: {
                "validation_loss": run.loss,
                "validation_loss_by_source": run.validation,
                "excess_over_clean": result.excess(arm),
                "ticks": run.ticks,
                "seconds": round(run.seconds, 1),
            }
            for arm, run in result.runs.items()
        },
        "run_dir": str(result.run_dir),
    }


def as_tables(result: Comparison) -> RenderableType:
    """What was detected when, what was done, and how the three runs ended."""
    return Group(_detections(result), Text(), _acts(result), Text(), _runs(result))


def _detections(result: Comparison) -> Table:
    table = Table(
        "fault", "from tick", "detected", "by", "corrected", title="What was detected", title_justify="left"
    )
    for detection in result.detections:
        table.add_row(
            detection.fault,
            _number(detection.tick),
            _after(detection, detection.alarm_tick),
            escape(detection.alarm_by) or "-",
            _after(detection, detection.act_tick),
        )
    return table


def _acts(result: Comparison) -> Table:
    table = Table("tick", "rule", "act", "became", title="What was done", title_justify="left")
    for act in result.acts:
        became = act.status + (f", {act.verdict}" if act.verdict else "")
        table.add_row(str(act.tick), escape(act.rule), "\n".join(act.actions), became)
    return table


def _runs(result: Comparison) -> Table:
    table = Table("run", title="Validation loss, nats a byte", title_justify="left")
    for column in (*result.runs[Arm.CLEAN].validation, "mean", "against clean", "seconds"):
        table.add_column(column, justify="right")
    for arm, run in result.runs.items():
        excess = result.excess(arm)
        table.add_row(
            arm.value,
            *(f"{loss:.3f}" for loss in run.validation.values()),
            f"{run.loss:.3f}",
            ""
            if arm is Arm.CLEAN
            else Text(f"{excess:+.1%}", style="red" if excess > TOLERANCE else "green"),
            f"{run.seconds:.0f}",
        )
    return table


def _after(detection: Detection, tick: int | None) -> str:
    if tick is None or detection.tick is None:
        return "-"
    delay = tick - detection.tick
    return f"{delay} step{'s' * (delay != 1)} later"


def _number(tick: int | None) -> str:
    return "-" if tick is None else str(tick)
