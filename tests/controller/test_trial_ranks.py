"""Two processes try the same arms on the same steps, and keep the same one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rank_jobs import cosine, late, loop, same
from small_loop import pull_policy
from test_trial import ARMS, STEPS, scores, trial_policy
from two_ranks import Ranks

from midcourse.policies.types import Status

# Ten updates a pass; decided at the trigger's tick, begun by both after the next one (late: one later yet).
TRIGGER = 7
LOOP: dict[str, Any] = {"mixture": True, "epochs": 6, "schedule": cosine, "norms_every": 3}


@pytest.mark.parametrize(
    ("job", "winner", "sharded"),
    [
        pytest.param(loop, "cooler", False),
        pytest.param(loop, "nothing", False, marks=pytest.mark.slow),
        pytest.param(loop, "without-b", False, marks=pytest.mark.slow),
        pytest.param(loop, "anew", True, marks=pytest.mark.slow),
        pytest.param(loop, "nothing", True, marks=pytest.mark.slow),
        pytest.param(late, "cooler", False, marks=pytest.mark.slow),
        pytest.param(late, "without-b", True, marks=pytest.mark.slow),
    ],
)
def test_both_keep_the_same_arm_as_if_it_had_been_taken_alone(
    ranks: Ranks, tmp_path: Path, job: Any, winner: str, sharded: bool
) -> None:
    how = {**LOOP, "sharded": sharded}
    if winner == "nothing":
        alone = ranks.run(loop, **{name: value for name, value in how.items() if name != "norms_every"})
    else:
        policy = pull_policy(ARMS[winner])
        alone = ranks.run(job, tmp_path / "alone", policy, triggers={TRIGGER: 1.0}, **how)
    began = TRIGGER + (3 if job is late else 1)
    also = {"score": scores(list(ARMS), winner, began)}
    policy = trial_policy(list(ARMS), "here")
    tried = ranks.run(job, tmp_path / "tried", policy, triggers={TRIGGER: 1.0}, also=also, **how)
    [outcome] = tried[0].outcomes
    told = outcome.details["trial"]
    assert outcome.status is Status.APPLIED, outcome.reason
    assert (told["kept"], told["from_tick"], told["ticks"]) == (winner, began, 4 * STEPS)
    for a, b in zip(alone, tried, strict=True):
        assert b.ids[: began + STEPS] == [*a.ids[:began], *b.ids[began : began + STEPS]]
        assert same(a, b)
    assert tried[0].parameters == tried[1].parameters


def test_an_arm_that_fails_on_one_process_is_out_on_both(ranks: Ranks, tmp_path: Path) -> None:
    policy = trial_policy(list(ARMS), "here")
    also = {"score": scores(["cooler", "anew"], "anew", TRIGGER + 1)}
    how = {**LOOP, "mixture": False}
    tried = ranks.run(loop, tmp_path, policy, triggers={TRIGGER: 1.0}, also=also, **how)
    [outcome] = tried[0].outcomes
    assert outcome.details["trial"]["kept"] == "anew"
    assert "not a Mixture" in outcome.details["trial"]["arms"]["without-b"]["failed"]
    assert tried[0].parameters == tried[1].parameters


def spoiled(rank: int, *args: Any, **kwargs: Any) -> Any:
    """The loop, where one process cannot go back to begin the second arm."""
    from rank_jobs import rank_here

    from midcourse.controller.trial import Trial

    goes_back, calls = Trial._go_back, []

    def fails(self: Trial) -> None:
        calls.append(1)
        goes_back(self)
        if len(calls) == 2 and rank_here() == rank:
            raise RuntimeError("made to fail")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "_go_back", fails)
        return loop(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_what_fails_on_one_process_ends_the_trial_on_both(ranks: Ranks, tmp_path: Path, rank: int) -> None:
    plain = ranks.run(loop, mixture=True, epochs=6, schedule=cosine)
    tried = ranks.run(
        spoiled, rank, tmp_path, trial_policy(list(ARMS), "here"), triggers={TRIGGER: 1.0}, **LOOP
    )
    [outcome, *_] = tried[0].outcomes
    assert outcome.status is Status.FAILED
    assert "made to fail" in outcome.reason
    for a, b in zip(plain, tried, strict=True):
        assert same(a, b)
