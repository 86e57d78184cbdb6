"""Smells: each has a policy that has it, in these words, and one near it that has not."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.monitors.types import Health, Reading
from midcourse.policies.expression_compiler import compile_expression
from midcourse.policies.expression_references import Scope
from midcourse.policies.policy import PolicyError, load_policy, parse_policy
from midcourse.policies.ranges import Interval, alternatives, implies, impossible
from midcourse.policies.smells import SMELLS, smells_of

HERE = Path(__file__).parent
SHIPPED = ["baseline", HERE / "design.yaml"]

MONITORS = """version: 1
monitors:
  guard: {type: guard}
  rise: {type: sustained_rise, signal: loss}
  slow: {type: stalled, signal: loss}
  source: {type: sustained_rise, signal: "loss/source=*"}
rules:
"""
CALM = "    cooldown: 100\n    budget: {acts: 3, per: 5000, max: 6}\n"


def rule(
    when: str, ladder: str = "[scale_lr: {factor: 0.5, hold: 100}]", more: str = CALM, name: str = "r"
) -> str:
    return f"  - name: {name}\n    when: {when}\n{more}    ladder: [{ladder}]\n"


BACK = "[rollback: {to: before_onset}]"
NOT_TWICE = "    cooldown: 100\n    budget: {acts: 2, per: 150, max: 6}\n"

CASES: dict[str, tuple[str, str, str]] = {
    "never-holds": (
        rule("loss.z > 6 and loss.z < 3"),
        rule("loss.z > 6 or loss.z < 3"),
        "9:11: smell: rule 'r': 'when' can never hold, loss.z would have to be above 6 and below 3: "
        "the rule never fires; mend or remove it",
    ),
    "never-holds of a score": (
        rule("rise.score > 40"),
        rule("rise.score > 29"),
        "9:11: smell: rule 'r': 'when' can never hold, rise.score would have to be above 40, and it is "
        "at most "
        "30: the rule never fires; mend or remove it",
    ),
    "never-holds of a health": (
        rule("rise.bad and rise.ok"),
        rule("rise.bad or rise.ok and loss.z > 3"),
        "9:11: smell: rule 'r': 'when' can never hold, rise would have to be two things at once: "
        "the rule never fires; mend or remove it",
    ),
    "never-holds of a constant": (
        rule("False and rise.bad"),
        rule("True and rise.bad"),
        "9:11: smell: rule 'r': 'when' can never hold, for it says False: the rule never fires; mend or "
        "remove it",
    ),
    "always-holds": (
        rule("rise.score > 3 or rise.score <= 3"),
        rule("rise.score > 3 or rise.score < 3"),
        "9:11: smell: rule 'r': 'when' holds whatever is measured: the rule fires in every run; write "
        "what tells a "
        "fault from a healthy run",
    ),
    "unless-covers-when": (
        rule("rise.bad and loss.z > 6", more=CALM + "    unless: loss.z > 3\n"),
        rule("rise.bad and loss.z > 6", more=CALM + "    unless: loss.z > 9\n"),
        "12:13: smell: rule 'r': 'unless' holds wherever 'when' does, so the rule never acts: write in "
        "'unless' only "
        "what is to hold it back",
    ),
    "onset-is-compared": (
        rule("rise.onset > 50"),
        rule("rise.score > 5"),
        "9:11: smell: rule 'r': rise.onset is the tick at which a change began, and it is asked to be "
        "above 50: "
        "compare .score or .value, or write 'for' for a duration",
    ),
    "default-budget": (
        rule("rise.bad", more="    cooldown: 100\n"),
        rule("rise.bad"),
        "8:5: smell: rule 'r': no budget is written, so budget: {acts: 3, per: 5000, max: 10} is used: "
        "write this, or "
        "your own",
    ),
    "budget-never-spent": (
        rule("rise.bad", more=NOT_TWICE),
        rule("rise.bad", more=NOT_TWICE.replace("150", "250")),
        "11:13: smell: rule 'r': in 150 ticks there are no more than 2 acts, 100 ticks apart, so acts: 2 "
        "is never used "
        "up: write per: 201 or more, or fewer acts",
    ),
    "rung-after-stop": (
        rule("rise.bad", "[stop: {}], [notify: {message: x}]"),
        rule("rise.bad", "[notify: {message: x}], [stop: {}]"),
        "12:26: smell: rule 'r': rung 2 comes after stop, which ends the run: write stop last",
    ),
    "rung-beyond-budget": (
        rule("rise.bad", f"{BACK}, {BACK}, {BACK}", CALM.replace("3, per", "2, per").replace("6", "2")),
        rule("rise.bad", f"{BACK}, {BACK}, [stop: {{}}]", CALM.replace("3, per", "2, per").replace("6", "2")),
        "12:78: smell: rule 'r': rung 3 is never paid for: the rungs before it use up max: 2: write max: "
        "3 or more",
    ),
    "limits-too-tight": (
        rule("rise.bad", f"{BACK}, {BACK}, [stop: {{}}]") + "limits: {acts: 1, per: 1000}\n",
        rule("rise.bad", f"{BACK}, {BACK}, [stop: {{}}]") + "limits: {acts: 2, per: 1000}\n",
        "13:16: smell: rule 'r': the limits allow 1 in 1000 ticks, and its ladder has 2 corrections: "
        "write acts: 2 or "
        "more",
    ),
    "only-skips-and-no-end": (
        rule("guard.bad", "[skip_step: {}]"),
        rule("guard.bad", "[skip_step: {}], [stop: {}]"),
        "12:13: smell: rule 'r': once the budget is spent, bad steps are taken: write a last rung, as in "
        "[stop: {}]",
    ),
    "no-pause": (
        rule("rise.bad", more=CALM.replace("100", "0")),
        rule("rise.bad", more=CALM.replace("100", "20")),
        "8:5: smell: rule 'r': it acts again after 1 tick, before a correction can show: write cooldown: "
        "16 or more, or "
        "verify",
    ),
    "acts-for-good": (
        rule("rise.bad", "[scale_lr: {factor: 0.1}]"),
        rule("rise.bad", "[scale_lr: {factor: 0.1, hold: 500}], [scale_lr: {factor: 0.1}]"),
        "12:25: smell: rule 'r': the first rung has scale_lr for good: write hold, in ticks, or try "
        "something weaker "
        "first",
    ),
    "opposite-acts": (
        rule("rise.bad") + rule("slow.bad", "[scale_lr: {factor: 2, hold: 100}]", name="s"),
        rule("loss.z > 6") + rule("loss.z < 3", "[scale_lr: {factor: 2, hold: 100}]", name="s"),
        "17:25: smell: rule 's': it turns the learning rate up, and rule 'r', which can fire at the same "
        "time, the "
        "other way: write conditions that exclude one another, or 'unless'",
    ),
    "expectation-is-constant": (
        rule("rise.bad", more=CALM + '    verify: {within: 300, expect: "loss.noise < 0"}\n'),
        rule("rise.bad", more=CALM + '    verify: {within: 300, expect: "loss.z < 0"}\n'),
        "12:35: smell: rule 'r': 'expect' never holds, so every verdict is 'did not help': write what a "
        "healthy run does and "
        "a spoilt one does not",
    ),
    "before-of-a-rollback": (
        rule("rise.bad", BACK, CALM + "    verify: {within: 300, expect: loss.level < before.loss.level}\n"),
        rule("rise.bad", BACK, CALM + "    verify: {within: 300, expect: loss.level <= target.loss.level}\n"),
        "12:35: smell: rule 'r': 'before' is the run as it was spoilt, and any state that the rule goes "
        "back to is "
        "better: compare with 'target', the state gone back to",
    ),
    "level-is-old": (
        rule(
            "rise.bad",
            more="    cooldown: 20\n" + CALM[18:] + "    verify: {within: 20, expect: loss.level < 3}\n",
        ),
        rule(
            "rise.bad",
            more="    cooldown: 20\n" + CALM[18:] + "    verify: {within: 32, expect: loss.level < 3}\n",
        ),
        "12:22: smell: rule 'r': the level of loss is the median of twice 32 measurements, so after 20 "
        "ticks it still "
        "is that from before the act: write within: 32 or more",
    ),
    "verdict-within-cooldown": (
        rule("rise.bad", more=CALM + "    verify: {within: 50, expect: loss.level < 3}\n"),
        rule("rise.bad", more=CALM + "    verify: {within: 100, expect: loss.level < 3}\n"),
        "12:22: smell: rule 'r': the verdict falls after 50 ticks, and one that says no ends the "
        "cooldown of 100: write "
        "within: 100 or more, or a shorter cooldown",
    ),
    "verdict-overlapped": (
        rule("rise.bad and loss.z > 3", more=CALM + "    verify: {within: 100, expect: loss.level < 3}\n")
        + rule("rise.bad", "[reweight: {source: code, scale: 0.5, hold: 9}]", name="s"),
        rule("rise.bad and loss.z > 3", more=CALM + "    verify: {within: 100, expect: loss.level < 3}\n")
        + rule("rise.bad and grad_norm.z > 3", "[reweight: {source: code, scale: 0.5, hold: 9}]", name="s"),
        "12:13: smell: rule 'r': rule 's' fires on the same and acts within the window, so no verdict is "
        "conclusive: "
        "make them one rule, with both in its ladder",
    ),
    "no-onset-told": (
        rule("loss.z > 6", BACK),
        rule("loss.z > 6", "[rollback: {to: last_good}]"),
        "12:30: smell: rule 'r': 'when' names no monitor, so nobody tells an onset and the newest good "
        "state is taken: "
        "name a monitor in 'when', as in rise.bad, or write to: last_good",
    ),
    "one-snapshot": (
        rule("rise.bad", BACK) + "snapshots: {keep: 1}\n",
        rule("rise.bad", BACK) + "snapshots: {keep: 2}\n",
        "13:19: smell: rule 'r': the only snapshot is the newest, seldom one before the onset: write keep: 6",
    ),
    "reach-too-short": (
        rule("rise.bad or slow.bad", BACK) + "snapshots: {reach: 200}\n",
        rule("rise.bad", BACK) + "snapshots: {reach: 200}\n",
        "12:30: smell: rule 'r': its onset lies up to 251 back when the rule acts, by 'slow' and 'for', "
        "and the "
        "snapshots reach back 200 ticks: write snapshots.reach: 502",
    ),
    "reach-too-short for steps": (
        rule("rise.bad", "[rollback: {to: {steps: 2000}}]"),
        rule("rise.bad", "[rollback: {to: {steps: 900}}]"),
        "12:30: smell: rule 'r': it goes back by 2000 steps, and the snapshots reach back 1000 ticks: write "
        "snapshots.reach: 4000",
    ),
}


def told(text: str) -> list[str]:
    return [str(smell) for smell in smells_of(parse_policy(MONITORS + text, "p.yaml"))]


@pytest.mark.parametrize("name", CASES)
def test_each_smell_is_told_in_these_words_and_its_neighbour_is_free_of_it(name: str) -> None:
    smelly, clean, words = CASES[name]
    assert told(smelly) == [f"p.yaml:{words}"]
    assert told(clean) == []


def test_every_smell_of_the_table_has_a_case() -> None:
    assert {name.split()[0] for name in CASES} == set(SMELLS)


def test_a_monitor_that_warms_up_for_all_of_the_run_is_told() -> None:
    text = """version: 1
monitors:
  outcome: {type: forecast, signal: loss, horizon: 300}
  rise: {type: sustained_rise, signal: loss, warm_up: %d}
"""
    [smell] = smells_of(parse_policy(text % 300, "p.yaml"))
    assert str(smell) == (
        "p.yaml:4:55: smell: monitor 'rise' judges nothing before measurement 300, and the run ends at 300: "
        "write a shorter warm_up"
    )
    assert smells_of(parse_policy(text % 200)) == ()


@pytest.mark.parametrize("source", SHIPPED, ids=str)
def test_what_is_shipped_and_printed_is_free_of_smells(source: str | Path) -> None:
    assert list(map(str, smells_of(load_policy(source)))) == []


def test_smells_never_raise_on_a_policy_that_is_valid() -> None:
    """On what becomes of the policies here when one word of them is another."""
    random = Random(0)
    texts = [MONITORS + text for smelly, clean, _ in CASES.values() for text in (smelly, clean)]
    texts.append((HERE / "design.yaml").read_text("utf-8"))
    words = [word for text in texts for word in re.findall(r"[\w./*=<>-]+", text)]
    valid = 0
    for text in texts * 8:
        spans = [match.span() for match in re.finditer(r"[\w./*=<>-]+", text)]
        start, end = random.choice(spans)
        try:
            policy = parse_policy(text[:start] + random.choice(words) + text[end:])
        except PolicyError:
            continue
        valid += 1
        lines = policy.text.count("\n") + 1
        assert all(1 <= smell.place.line <= lines for smell in smells_of(policy))
    assert valid > 30


_NUMBERS = st.sampled_from(["-1", "0", "1", "2.5"])
_SUBJECTS = st.sampled_from([f"{name}.{word}" for name in "ab" for word in ("score", "level", "value", "z")])
_CONDITION = st.recursive(
    st.one_of(
        st.builds(
            "{} {} {}".format, _SUBJECTS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _NUMBERS
        ),
        st.builds("{} {} {}".format, _NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "=="]), _SUBJECTS),
        st.builds("{} <= {} < {}".format, _NUMBERS, _SUBJECTS, _NUMBERS),
        st.builds("{} < {}".format, _SUBJECTS, _SUBJECTS),
        st.builds("{}.{}".format, st.sampled_from("ab"), st.sampled_from(["bad", "ok", "warmup", "stale"])),
        st.sampled_from(["True", "False", "isnan(a.value)"]),
    ),
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=6,
)
_VALUE = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 2.5, 3.0, float("nan")])
_READINGS = st.fixed_dictionaries(
    {
        name: st.fixed_dictionaries(
            {
                "": st.builds(
                    Reading, st.sampled_from(Health), st.just(1), _VALUE, _VALUE, level=_VALUE, noise=_VALUE
                )
            }
        )
        for name in "ab"
    }
)


def anything(subject: str) -> Interval:
    return Interval()


def ask(text: str, readings: dict[str, dict[str, Reading]]) -> bool | None:
    compiled = compile_expression(f"a.stale and a.warmup or {text}", Scope({"a": False, "b": False}), print)
    assert compiled is not None
    return compiled(readings)


@settings(max_examples=150, deadline=None)
@given(_CONDITION, _CONDITION, st.lists(_READINGS, min_size=4, max_size=4))
def test_what_is_told_of_a_condition_is_true_of_every_reading(
    text: str, other: str, several: list[dict[str, dict[str, Reading]]]
) -> None:
    ways = alternatives(text)
    fails = alternatives(text, holds=False)
    assert ways is not None
    assert fails is not None
    for readings in several:
        holds = ask(text, readings)
        if all(impossible(way, anything) is not None for way in ways):
            assert holds is not True
        if all(impossible(way, anything) is not None for way in fails):
            assert holds is not False
        if implies(text, other, anything) and holds:
            assert ask(other, readings) is True


def test_of_a_condition_with_too_many_alternatives_nothing_is_said() -> None:
    text = " and ".join(f"(loss.z > {number} or loss.z < -{number})" for number in range(1, 12))
    assert alternatives(text) is None
    assert told(rule(text)) == []
