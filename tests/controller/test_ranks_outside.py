"""Two processes: what comes from outside enters by one, and both obey it at the same batch."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rank_jobs import Ran, check_replay, loop, rank_here, same
from test_outside import BACK, COOLER, policy
from two_ranks import Ranks

from midcourse.controller.outside import approve, switch_off, switch_on
from midcourse.policies.types import Disposition, Status


def told(run: Path, at: dict[int, Any], **kwargs: Any) -> Ran:
    """The loop, in which rank 0 has these called after some of its steps; every look is due."""
    made, seconds = count(1), count(step=0.5)

    def after_step() -> None:
        do = at.get(next(made))
        if do is not None and rank_here() == 0:
            do(run)

    return loop(run, after_step=after_step, clock=lambda: next(seconds), **kwargs)


def write(file: Path, text: str, run: Path) -> None:
    file.write_text(text)


def yes(run: Path, decision: str) -> None:
    approve(run, decision, by="ada")


@pytest.mark.slow
def test_both_go_back_at_the_same_batch_once_it_is_approved(ranks: Ranks, tmp_path: Path) -> None:
    plain = ranks.run(loop)
    asked = policy(BACK, "approve: {within: 100}")
    ran = ranks.run(
        told,
        tmp_path,
        {17: partial(yes, decision="pull@8")},
        policy=asked,
        triggers=dict.fromkeys(range(8, 22), 1.0),
    )
    [outcome] = ran[0].outcomes
    assert (outcome.decision_id, outcome.status) == ("pull@8", Status.APPLIED)
    for a, b in zip(plain, ran, strict=True):
        check_replay(a, b)


@pytest.mark.slow
def test_the_switch_withdraws_on_both(ranks: Ranks, tmp_path: Path) -> None:
    at = {10: partial(switch_off, withdraw=True), 15: switch_on}
    ran = ranks.run(told, tmp_path, at, policy=policy(COOLER), triggers={5: 1.0, 13: 1.0, 20: 1.0})
    assert [d.disposition for d in ran[0].decisions] == [
        Disposition.ACT,
        Disposition.OBSERVE,
        Disposition.ACT,
    ]
    rates = [sample.signals["lr"] for sample in ran[0].samples]
    assert rates[8] == rates[25] == 5e-3
    assert set(rates[13:20]) == {1e-2}
    assert same(*ran)


@pytest.mark.slow
def test_an_edit_is_in_force_on_both(ranks: Ranks, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(policy(COOLER))
    edit = partial(write, file, policy("scale_lr: {factor: 0.25, hold: 500}"))
    ran = ranks.run(told, tmp_path / "run", {8: edit}, policy=file, triggers={15: 1.0})
    assert [d.actions[0].params["factor"] for d in ran[0].decisions] == [0.25]
    assert ran[0].samples[-1].signals["lr"] == 2.5e-3
    assert same(*ran)


@pytest.mark.slow
def test_a_trial_that_is_switched_off_ends_on_both_as_if_it_had_not_been(
    ranks: Ranks, tmp_path: Path
) -> None:
    arms = "{cooler: [scale_lr: {factor: 0.1}]}"
    tried = policy(f"trial: {{arms: {arms}, steps: 32, judge: loss.value, from: here}}")
    ran = ranks.run(told, tmp_path, {20: switch_off}, policy=tried, triggers={8: 1.0}, epochs=8)
    whole = ranks.run(loop, epochs=8)
    [outcome] = ran[0].outcomes
    assert outcome.status is Status.FAILED
    assert "switched off" in outcome.reason
    assert len(whole[0].ticks) < len(ran[0].ticks) < len(whole[0].ticks) + 32  # broken off, not run through
    for a, b in zip(whole, ran, strict=True):
        assert same(a, b)
