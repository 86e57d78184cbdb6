"""Regulators in real runs: what they set, what rules make of it, and that going back or on is exact."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rank_jobs import check_replay, loop
from small_loop import Died, Trace, train, uneven_sources
from two_ranks import Ranks

from midcourse.controller.cli import main
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.tables import Event
from midcourse.controller.recorded.backtest import backtest
from midcourse.controller.recorded.journal_runs import read_journal
from midcourse.monitors.types import Sample
from midcourse.policies.policy import parse_policy
from midcourse.policies.regulators.registry import LAWS
from midcourse.policies.types import Status

torch.set_num_threads(1)

MIX = """
version: 1
mode: {mode}
signals: [trigger]
snapshots: {{keep: 6, reach: 160, every: 5}}
checkpoints: {{every: {checkpoints}}}
regulators:
  mix: {{law: {law}, signal: "loss/source=*", every: 4, floor: 0.1, ceiling: 0.6, rate: 0.05{own}}}
monitors:
  guard: {{type: guard}}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 3, per: 1000}}
    ladder:
      - [{actions}]
"""
OWN = {"excess_loss": ", reference: {a: 1, b: 1, c: 1}"}
BACK = "rollback: {to: {steps: 12}, data: replay}"
CALM = """
version: 1
snapshots: {keep: 6, reach: 160, every: 5}
signals: [trigger]
regulators:
  calm: {law: proportional, signal: update_ratio, target: 0.004, actuator: lr, every: 4, floor: 0.02, rate: 1}
rules:
  - name: pull
    when: trigger.value > 0.5
    ladder:
      - [rollback: {to: {steps: 12}, data: replay}]
"""


def policy(law: str = "group_dro", actions: str = BACK, mode: str = "act", checkpoints: str = "null") -> str:
    return MIX.format(law=law, own=OWN.get(law, ""), actions=actions, mode=mode, checkpoints=checkpoints)


def uneven(run_dir: Path | None, text: str, **kwargs: Any) -> Trace:
    wanted = {"mixture": True, "data": uneven_sources, "log_sources": True, "epochs": 4, **kwargs}
    return train(run_dir, text, **wanted)


def told(folder: Path, kind: str = "regulated") -> list[Event]:
    with JournalReader(folder) as journal:
        return [event for event in journal.events() if event.kind == kind]


def samples(folder: Path) -> list[Sample]:
    with JournalReader(folder) as journal:
        return list(journal.samples())


def mixes(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """From which tick on the data came of which shares."""
    return [
        (sample.tick, {name[4:]: value for name, value in sample.signals.items() if name.startswith("mix/")})
        for sample in samples(folder)
        if any(name.startswith("mix/") for name in sample.signals)
    ]


@pytest.mark.parametrize("law", [law for law in LAWS if LAWS[law].sets_shares])
def test_the_worst_source_gets_more_within_floor_ceiling_and_rate(tmp_path: Path, law: str) -> None:
    uneven(tmp_path, policy(law), epochs=2)
    course = mixes(tmp_path)
    assert len(course) > 3
    (_, before), (_, after) = course[0], course[-1]
    assert before == pytest.approx(dict.fromkeys("abc", 1 / 3))
    assert after["c"] > before["c"] + 0.05
    for (_, was), (_, now) in pairwise(course):
        assert all(0.1 - 1e-9 <= share <= 0.6 + 1e-9 for share in now.values())
        assert all(abs(now[name] - was[name]) <= 0.05 + 1e-9 for name in now)
    moves = told(tmp_path)
    assert [move.detail["in_force"] for move in moves] == [True] * len(moves)
    ticks = [tick for tick, _ in course[1:]]
    assert [tick - move.tick for tick, move in zip(ticks, moves, strict=False)] == [3] * len(ticks), (
        "drawn under the new shares once what Accelerate has in hand is consumed"
    )


@pytest.mark.parametrize(("at", "every"), [(30, 4), (42, 4), (33, 1)])
def test_a_replay_is_exact_with_shares_that_were_still_to_come(tmp_path: Path, at: int, every: int) -> None:
    """A snapshot may lie between a move and the batch from which it holds, or between several."""
    text = policy().replace("every: 4", f"every: {every}")
    straight = uneven(tmp_path / "straight", text)
    back = uneven(tmp_path / "back", text, triggers={at: 1.0})
    with JournalReader(tmp_path / "back") as journal:
        [outcome] = journal.outcomes()
    target = outcome.details["rollback"]["target_tick"]
    assert outcome.status is Status.APPLIED
    held = [move for move in told(tmp_path / "back") if move.tick <= target][-1]
    assert outcome.details["rollback"]["regulated"] == held.detail["values"]
    assert back.ids == straight.ids[:at] + straight.ids[target:]
    assert back.losses == straight.losses[:at] + straight.losses[target:]
    assert back.matches(straight)
    again = [move.detail for move in told(tmp_path / "back") if move.tick > at]
    assert again == [move.detail for move in told(tmp_path / "straight") if move.tick > target]


def test_going_forward_after_a_rollback_takes_up_the_shares_of_the_target(tmp_path: Path) -> None:
    uneven(tmp_path, policy(actions=BACK.replace("replay", "forward")), triggers={32: 1.0}, epochs=3)
    with JournalReader(tmp_path) as journal:
        [outcome] = journal.outcomes()
    target = outcome.details["rollback"]["target_tick"]
    held = [move for move in told(tmp_path) if move.tick <= target][-1].detail["values"]
    after = next(shares for tick, shares in mixes(tmp_path) if tick > 32 + 2)
    assert after == pytest.approx({name.removeprefix("weight/"): share for name, share in held.items()})


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_where_it_would_have(tmp_path: Path, workers: int) -> None:
    text = policy(checkpoints="5")
    straight = uneven(tmp_path / "straight", text, workers=workers)
    with pytest.raises(Died):
        uneven(tmp_path / "died", text, die_at=42, workers=workers)
    resumed = uneven(tmp_path / "died", text, resume="auto", workers=workers)
    assert resumed.ids == straight.ids[-len(resumed.ids) :]
    assert resumed.losses == straight.losses[-len(resumed.losses) :]
    assert resumed.matches(straight)


def test_a_policy_without_the_regulator_goes_back_to_the_users_own_mix(tmp_path: Path) -> None:
    with pytest.raises(Died):
        uneven(tmp_path, policy(checkpoints="5"), die_at=42)
    uneven(tmp_path, "{version: 1, signals: [trigger]}", resume="auto")
    assert mixes(tmp_path)[-1][1] == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_a_regulator_whose_constants_have_changed_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Died):
        uneven(tmp_path, policy(checkpoints="5"), die_at=42)
    before = len(mixes(tmp_path))
    uneven(tmp_path, policy(checkpoints="5").replace("rate: 0.05", "rate: 0.06"), resume="auto")
    after = mixes(tmp_path)[before:]
    assert after[0][1] == pytest.approx(dict.fromkeys("abc", 1 / 3)), "from the user's own mix"
    assert any(shares["c"] > 0.38 for _, shares in after[1:])


def test_in_observe_mode_moves_are_written_down_and_the_run_is_as_it_was(tmp_path: Path) -> None:
    bare = uneven(None, "", epochs=2)
    watched = uneven(tmp_path, policy(mode="observe"), epochs=2)
    assert watched.losses == bare.losses
    assert watched.matches(bare)
    moves = told(tmp_path)
    assert moves
    assert not any(move.detail["in_force"] for move in moves)


def test_a_quarantine_holds_against_the_regulator_and_gives_back(tmp_path: Path) -> None:
    act = "reweight: {source: c, to: 0, hold: 16}"
    uneven(tmp_path, policy(actions=act), triggers={20: 1.0}, epochs=3)
    course = [(tick, shares) for tick, shares in mixes(tmp_path) if tick > 20]
    without = [(tick, shares) for tick, shares in course if tick <= 37]
    assert without[0][0] == 21, "a rule's act reaches the very next batch"
    assert all(shares["c"] == 0.0 for _, shares in without)
    assert len(without) > 1, "the others are regulated on"
    tick, shares = next((tick, shares) for tick, shares in course if shares["c"] > 0.0)
    assert 37 <= tick <= 40
    assert shares["c"] > 0.4, "what it had: nothing was measured that could have moved it"


@pytest.mark.parametrize("rate", [0.3, 0.01])
def test_the_update_ratio_is_held_at_its_target(tmp_path: Path, rate: float) -> None:
    train(tmp_path, CALM, epochs=4, norms_every=1, optimizer=lambda p: torch.optim.AdamW(p, lr=rate))
    found = [s.signals["update_ratio"] for s in samples(tmp_path) if "update_ratio" in s.signals]
    free = sum(found[:4]) / 4
    last = sorted(found[-30:])[15]
    assert free > 2 * 0.004
    assert last == pytest.approx(0.004, rel=0.25)
    assert all("lr" in move.detail["values"] for move in told(tmp_path))


def test_one_source_s_weight_may_hold_a_signal(tmp_path: Path) -> None:
    text = """
version: 1
regulators:
  fit: {law: proportional, signal: loss/source=c, target: 0.1, actuator: weight/c, every: 4, ceiling: 3,
        gain: -0.1}
"""
    uneven(tmp_path, text, epochs=2)
    _, last = mixes(tmp_path)[-1]
    assert last["a"] == pytest.approx(last["b"])
    assert last["c"] > 0.4, "in the mix the factor counts as the author's own weight times it"
    factor = told(tmp_path)[-1].detail["values"]["weight/c"] * 3
    assert 1.5 < factor <= 3.0


def test_a_replay_is_exact_with_a_regulated_rate(tmp_path: Path) -> None:
    how: dict[str, Any] = {"norms_every": 1}
    straight = train(tmp_path / "straight", CALM, **how)
    back = train(tmp_path / "back", CALM, triggers={33: 1.0}, **how)
    with JournalReader(tmp_path / "back") as journal:
        target = journal.outcomes()[0].details["rollback"]["target_tick"]
    assert back.losses == straight.losses[:33] + straight.losses[target:]
    assert back.matches(straight)
    rates = [sample.signals["lr"] for sample in samples(tmp_path / "back")]
    plain = [sample.signals["lr"] for sample in samples(tmp_path / "straight")]
    assert rates == plain[:33] + plain[target:]


def test_the_user_s_own_rate_stays_in_the_schedule(tmp_path: Path) -> None:
    trace = train(tmp_path, CALM, norms_every=1)
    assert set(trace.rates) == {1e-2}
    assert samples(tmp_path)[-1].signals["lr"] < 0.5e-2


def test_without_a_mixture_it_is_refused_once_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    train(tmp_path, policy(), epochs=2, say=said.append)
    reason = "the training loader is not a Mixture, so there are no shares to set"
    assert [line for line in said if "refused" in line] == [f"regulator mix refused: {reason}"]
    assert [event.detail for event in told(tmp_path, "regulator_refused")] == [
        {"regulator": "mix", "reason": reason}
    ]
    assert any("mix sets the mix by group_dro of loss/source=* every 4 ticks" in line for line in said)


def test_a_law_that_fails_is_loud_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, measured: Any, now: Any) -> Any:
        raise ZeroDivisionError("of its own making")

    monkeypatch.setattr(LAWS["group_dro"], "update", fails)
    bare = uneven(None, "", epochs=2)
    failed = uneven(tmp_path, policy(), epochs=2)
    assert failed.matches(bare)
    [error] = told(tmp_path, "error")
    assert error.detail == {
        "component": "regulator",
        "message": "regulator mix is switched off: ZeroDivisionError: of its own making",
    }


def test_what_it_gives_is_shown_from_the_start_and_told_shortly(tmp_path: Path) -> None:
    trace = uneven(tmp_path, policy(), epochs=2)
    assert trace.controller is not None
    assert trace.controller._records is not None
    shown = {
        tuple(sample.labels.values()): sample.value
        for family in trace.controller._records.metrics.collect()
        for sample in family.samples
        if sample.name == "midcourse_regulator_output"
    }
    moves = told(tmp_path)
    assert shown == {("mix", target): share for target, share in moves[-1].detail["values"].items()}
    overview = CliRunner().invoke(main, ["journal", str(tmp_path)]).output
    lines = [line for line in overview.splitlines() if "regulator mix" in line]
    assert len(lines) == 1
    assert f"moved {len(moves)} times, last to a 0." in lines[0]


def test_a_reference_may_be_a_file_or_a_finished_run(tmp_path: Path) -> None:
    uneven(tmp_path / "finished", policy(), epochs=1)
    (tmp_path / "losses.json").write_text(json.dumps(dict.fromkeys("abc", 1.0)))
    for number, path in enumerate(("losses.json", "finished")):
        text = policy("excess_loss").replace("{a: 1, b: 1, c: 1}", str(tmp_path / path))
        uneven(tmp_path / str(number), text, epochs=1)
        assert told(tmp_path / str(number))
    said: list[str] = []
    text = policy("excess_loss").replace("{a: 1, b: 1, c: 1}", str(tmp_path / "nowhere"))
    uneven(tmp_path / "2", text, epochs=1, say=said.append)
    assert any("regulator mix refused: its reference" in line and "no journal" in line for line in said)
    assert told(tmp_path / "2") == []


def test_a_journal_with_a_regulator_replays_to_its_decisions(tmp_path: Path) -> None:
    uneven(tmp_path, policy(), triggers={33: 1.0})
    [course] = backtest(parse_policy(policy()), read_journal(tmp_path, "run")).courses
    assert course.comparison is not None
    assert course.comparison.identical
    assert len(course.decisions) == 1


@pytest.mark.slow
def test_two_processes_draw_under_the_same_shares_and_go_back_exactly(ranks: Ranks, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "mixture": True, "data": uneven_sources, "log_sources": True, "epochs": 4,
    }  # fmt: skip
    plain = ranks.run(loop, tmp_path / "plain", policy(), **wanted)
    assert plain[0].parameters == plain[1].parameters
    assert plain[0].ids != plain[1].ids
    course = mixes(tmp_path / "plain")
    assert course[-1][1] != course[0][1]
    for at in (20, 21, 22, 23):
        acted = ranks.run(loop, tmp_path / str(at), policy(), triggers={at: 1.0}, **wanted)
        for straight, back in zip(plain, acted, strict=True):
            check_replay(straight, back)
