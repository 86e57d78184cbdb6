"""A policy's text with other parameters: nothing else of it changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.policies.policy import Policy, load_policy, parse_policy
from midcourse.policies.rewrite import RewriteError, with_parameters

FLOW = "{type: spike, signal: loss}"
LAYOUTS = {
    "flow": (
        "spike: {type: spike, signal: loss} # x",
        "spike: {type: spike, threshold: 12.5, signal: loss} # x",
    ),
    "flow, written": (
        "spike: {threshold: 1e1, type: spike, signal: loss}",
        "spike: {threshold: 12.5, type: spike, signal: loss}",
    ),
    "flow, type last": (
        "spike: {signal: loss, type: 'spike' }",
        "spike: {signal: loss, type: 'spike', threshold: 12.5 }",
    ),
    "flow, type alone": (
        "spike: {signal: loss,\n    type: spike}",
        "spike: {signal: loss,\n    type: spike, threshold: 12.5}",
    ),
    "block": (
        "spike:\n    type: spike # why\n    signal: loss",
        "spike:\n    type: spike # why\n    threshold: 12.5\n    signal: loss",
    ),
    "block, written": (
        "spike:\n    threshold: +9 # why\n    type: spike\n    signal: loss",
        "spike:\n    threshold: 12.5 # why\n    type: spike\n    signal: loss",
    ),
    "block, type last": (
        'spike:\n    signal: loss\n    type: "spike"',
        'spike:\n    signal: loss\n    type: "spike"\n    threshold: 12.5',
    ),
}


def policy(monitors: str, newline: str = "\n") -> Policy:
    text = f"# mine é\nversion: 1\nmonitors:\n  {monitors}\n# the end\n"
    return parse_policy(text.replace("\n", newline))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_keeps_its_form(name: str, newline: str) -> None:
    before, after = LAYOUTS[name]
    text = with_parameters(policy(before, newline), {"spike": {"threshold": 12.5}})
    assert text == policy(after, newline).text
    assert parse_policy(text).monitors[0].params == {"signal": "loss", "threshold": 12.5}


_VALUES = st.floats(5.0, 1e9).map(lambda value: float(f"{value:.3g}"))
_NAMES = ("blowup", "rise", "vote", "source", "gradient", "spike", "too_good", "stalled", "lost_state")


@settings(max_examples=8, deadline=None)
@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES.filter(lambda value: value > 200)))
def test_the_baseline_with_other_thresholds_differs_in_them_only(values: dict[str, float]) -> None:
    baseline = load_policy("baseline")
    kinds = {spec.name: spec.type for spec in baseline.monitors}
    keys = {name: "average_run_length" if kinds[name] == "e_detector" else "threshold" for name in values}
    text = with_parameters(baseline, {name: {keys[name]: value} for name, value in values.items()})
    lines = baseline.text.splitlines()
    assert [line for line in text.splitlines() if line in lines] == lines
    assert len(text.splitlines()) == len(lines) + len(values)
    changed = {spec.name: spec.params for spec in parse_policy(text).monitors}
    for spec in baseline.monitors:
        own = {keys[spec.name]: values[spec.name]} if spec.name in values else {}
        assert changed[spec.name] == {**spec.params, **own}


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(RewriteError, match="monitor 'other' is not written"):
        with_parameters(policy(f"spike: {FLOW}"), {"other": {"threshold": 9.0}})
    with pytest.raises(RewriteError, match="spike has no key 'treshold'"):
        with_parameters(policy(f"spike: {FLOW}"), {"spike": {"treshold": 9.0}})
    with pytest.raises(RewriteError, match="cannot be changed in place"):
        with_parameters(
            policy("spike:\n    ? type\n    : spike\n    ? signal\n    : loss"), {"spike": {"threshold": 9.0}}
        )
