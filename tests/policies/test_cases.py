"""Files of tests: what is wrong with them is told at its place, and what was said is compared as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.cases import Expected, Span, read_cases
from midcourse.policies.document import PolicyError
from midcourse.policies.expectations import Pair, aligned, compare
from midcourse.policies.types import Action, Decision, Disposition, Phase, PhaseChange, Turn

BAD = sorted((Path(__file__).parent / "bad_cases").glob("*.yaml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_each_bad_file_says_exactly_this(path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        read_cases(path)
    told = str(caught.value).replace(f"{path.parent}/", "")
    assert told + "\n" == path.with_suffix(".txt").read_text("utf-8")


def decision(rule: str, tick: int, **more: Any) -> Decision:
    fields = {"instance": "", "disposition": Disposition.ACT, "rung": 0, "reason": "loss is too high", **more}
    actions = fields.pop("actions", (Action("rollback", {"to": "last_good", "data": "skip"}),))
    return Decision(
        f"{rule}@{tick}", rule, tick=tick, step=tick, branch=0, actions=actions, onset=None, **fields
    )


def read(folder: Path, expected: str, key: str = "decisions") -> Any:
    path = folder / "a.test.yaml"
    path.write_text(
        f"policy: baseline\ntests:\n  - name: it\n    series: {{loss: '2'}}\n    {key}: {expected}\n"
    )
    return read_cases(path).cases[0]


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ("{tick: 9}", ()),
        ("{tick: {from: 9, to: 9}, rule: off-course, instance: '', disposition: act, step: 9}", ()),
        ("{tick: 10, rung: 1}", ("tick", "rung")),
        ("{tick: {from: 10, to: 20}}", ("tick",)),
        ("{rule: bad-step, disposition: observe}", ("rule", "disposition")),
        ("{actions: [rollback]}", ()),
        ("{actions: [rollback: {to: last_good}]}", ()),
        ("{actions: [rollback: ]}", ()),
        ("{actions: [rollback: {to: before_onset}]}", ("actions",)),
        ("{actions: [rollback: {too: last_good}]}", ("actions",)),
        ("{actions: [rollback, stop]}", ("actions",)),
        ("{actions: []}", ("actions",)),
        ("{reason: too high}", ()),
        ("{reason: too low}", ("reason",)),
    ],
)
def test_only_what_is_written_is_compared(tmp_path: Path, expected: str, wrong: tuple[str, ...]) -> None:
    case = read(tmp_path, f"[{expected}]")
    [pair, *more] = compare(case, Turn([decision("off-course", 9)]))["decisions"]
    if "rule" in wrong:
        assert pair == Pair(case.decisions[0], None)
        assert [each.expected for each in more] == [None]
    else:
        assert pair.wrong == wrong
        assert pair.ok is not bool(wrong)
        assert not more


def test_none_expected_is_a_claim_and_nothing_said_is_none(tmp_path: Path) -> None:
    turn = Turn([decision("off-course", 9)])
    [pair] = compare(read(tmp_path, "[]"), turn)["decisions"]
    assert pair.expected is None
    assert not pair.ok
    assert compare(read(tmp_path, "[]", "verdicts"), turn) == {"verdicts": []}


def test_suppressed_decisions_count_only_for_rules_of_which_one_is_expected(tmp_path: Path) -> None:
    turn = Turn(
        [
            decision("bad-step", 8, disposition=Disposition.SUPPRESSED),
            decision("off-course", 9, disposition=Disposition.SUPPRESSED),
            decision("off-course", 10),
        ]
    )

    def ok(expected: str) -> list[bool]:
        return [pair.ok for pair in compare(read(tmp_path, expected), turn)["decisions"]]

    assert ok("[{tick: 10}]") == [True]
    assert ok("[{rule: off-course, disposition: suppressed}, {tick: 10}]") == [True, True]
    assert ok("[{disposition: suppressed}, {disposition: suppressed}, {tick: 10}]") == [True, True, True]


def test_a_phase_is_that_after_the_tick(tmp_path: Path) -> None:
    changes = [
        (5, Phase.INACTIVE, Phase.PENDING),
        (5, Phase.PENDING, Phase.FIRING),
        (7, Phase.FIRING, Phase.COOLDOWN),
    ]
    turn = Turn(phases=[PhaseChange(tick, "off-course", "", *each) for tick, *each in changes])
    expected = "[" + ", ".join(
        f"{{tick: {tick}, rule: off-course, phase: {phase}}}"
        for tick, phase in ((4, "inactive"), (5, "firing"), (6, "firing"), (7, "cooldown"), (7, "firing"))
    ) + "]"  # fmt: skip
    pairs = compare(read(tmp_path, expected, "phases"), turn)["phases"]
    assert [pair.ok for pair in pairs] == [True, True, True, True, False]


SAID = st.lists(st.fixed_dictionaries({"tick": st.integers(0, 5), "rule": st.sampled_from("ab")}), max_size=6)


@given(SAID, SAID)
def test_aligning_keeps_all_of_both_lists_in_order(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    expected = [Expected(line, wanted) for line, wanted in enumerate(first)]
    pairs = aligned(expected, second)
    assert [pair.expected for pair in pairs if pair.expected is not None] == expected
    assert [pair.said for pair in pairs if pair.said is not None] == second
    assert all(pair.ok for pair in pairs) == (first == second)


@given(SAID, st.integers(0, 5))
def test_one_missing_entry_is_the_only_difference(said: list[dict[str, Any]], place: int) -> None:
    expected = [Expected(line, wanted) for line, wanted in enumerate(said)]
    del said[place : place + 1]
    assert sum(not pair.ok for pair in aligned(expected, said)) == len(expected) - len(said)


def test_a_span_holds_its_ends() -> None:
    pairs = aligned(
        [Expected(1, {"tick": Span(3, 5)})] * 3, [{"tick": tick, "rule": "a"} for tick in (3, 5, 6)]
    )
    assert [pair.ok for pair in pairs] == [True, True, False]
