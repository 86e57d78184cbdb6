"""A compound act is all or nothing: whichever part of it fails, and however far it got, nothing was tried."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Trace, train

from midcourse.controller import orders, rng
from midcourse.controller.actuators import act, rollback
from midcourse.controller.actuators.effect import Refused
from midcourse.controller.feed import Feed
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.learning_rate import LearningRate
from midcourse.controller.mix import Mix
from midcourse.controller.overrides import Layers
from midcourse.controller.ring import Ring
from midcourse.controller.training_state import TrainingState
from midcourse.monitors.bank import MonitorBank
from midcourse.policies.types import Status

torch.set_num_threads(1)

BACK = "rollback: {{to: {{steps: 12}}, data: {data}}}"
CUT = "scale_lr: {{factor: 0.5, hold: 20, ramp: 5}}"
QUARANTINE = "reweight: {{source: b, to: 0, hold: 10}}"
POLICY = """
version: 1
signals: [trigger]
snapshots: {{keep: 6, reach: 160, every: 5}}
monitors:
  rise: {{type: sustained_rise, signal: loss}}
rules:
  - name: pull
    when: trigger.value > 0.5
    ladder:
      - [ACTIONS]
"""
ORDERS = {
    "rollback-first": f"{BACK}, {CUT}, {QUARANTINE}",
    "rollback-last": f"{QUARANTINE}, {CUT}, {BACK}",
}
LAST_OF_A_PASS, MIDDLE = 20, 28

Failing = tuple[Any, str, int, bool]
"""Where it fails: owner, method, the how many-th call within the act, and whether its work is done first."""

PARTS: dict[str, Failing] = {
    "snapshot of the present": (Ring, "copy", 1, True),
    "small states, before": (TrainingState, "small", 1, False),
    "weights and moments, after": (TrainingState, "restore", 1, True),
    "optimizer's state, before": (TrainingState, "_shape_optimizer_state", 1, False),
    "optimizer's state, after": (TrainingState, "_shape_optimizer_state", 1, True),
    "schedule, after": (TrainingState, "restore_schedule", 1, True),
    "read-back": (rollback, "identical", 1, True),
    "detectors, after": (MonitorBank, "load_state_dict", 1, True),
    "mixture's history, before": (Mix, "rewind", 1, False),
    "mixture's history, after": (Mix, "rewind", 1, True),
    "feed, before": (Feed, "rewind", 1, False),
    "feed, after": (Feed, "rewind", 1, True),
    "feed, opening": (Feed, "_open", 1, True),
    "feed, opening again": (Feed, "_open", 2, True),
    "rates, before the layer": (LearningRate, "rates", 1, False),
    "rates, after the layer": (LearningRate, "rates", 2, True),
    "layer of the rate": (Layers, "add", 1, True),
    "layer of the weight": (Layers, "add", 2, True),
    "wanted weights": (Mix, "wanted", 1, True),
    "weights, before": (Mix, "apply_now", 1, False),
    "weights, after": (Mix, "apply_now", 1, True),
    "prefetched, before": (Feed, "refresh", 1, False),
}


class Once:
    """Makes one call fail within the next act, and only there."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: Failing) -> None:
        owner, name, self.calls_left, self.after = failing
        self.acting, self.failed = False, False
        patch.setattr(owner, name, self._failing(getattr(owner, name)))
        patch.setattr(orders, "carry_out", self._acting(orders.carry_out))

    def _acting(self, carry_out: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*args: Any) -> Any:
            self.acting = True
            try:
                return carry_out(*args)
            finally:
                self.acting = False

        return acting

    def _failing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            self.calls_left -= self.acting
            fails = self.acting and self.calls_left == 0 and not self.failed
            self.failed = self.failed or fails
            if fails and not self.after:
                raise RuntimeError("made to fail")
            result = original(*args, **kwargs)
            if fails:
                raise RuntimeError("made to fail")
            return result

        return failing


def run(folder: Path, policy: str, **triggers: Any) -> tuple[Trace, rng.RandomState]:
    trace = train(
        folder,
        policy,
        mixture=True,
        schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=60),
        **triggers,
    )
    return trace, rng.capture()


Undisturbed = Callable[[str], tuple[Trace, rng.RandomState]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The run under a policy in which nothing is tried."""
    return cache(lambda policy: run(tmp_path_factory.mktemp("plain"), policy))


def assert_untouched(
    folder: Path, policy: str, tick: int, status: Status, plain: Trace, end: rng.RandomState
) -> None:
    """Nothing is different from the undisturbed run, but for what the journal says."""
    tried, end_of_tried = run(folder, policy, triggers={tick: 1.0})
    with JournalReader(folder) as reader:
        (outcome,) = reader.outcomes()
    assert outcome.status is status
    assert tried.ids == plain.ids
    assert tried.losses == plain.losses
    assert tried.rates == plain.rates
    assert tried.matches(plain)
    assert end_of_tried.same_as(end)
    ours, theirs = (trace.controller._wiring.cycle.run for trace in (tried, plain))  # type: ignore[union-attr]
    assert rollback.identical(ours.state.tensors(), theirs.state.tensors())
    assert ours.state.schedule() == theirs.state.schedule()
    assert ours.mix.state_dict() == theirs.mix.state_dict()
    assert ours.clock == theirs.clock
    rises = [of.detectors.state_dict()["monitors"]["rise"] for of in (ours, theirs)]
    assert rises[0] == rises[1]
    assert not ours.layers
    assert not ours.feed.left_out
    assert not ours.feed.missed
    assert [s.tick for s in ours.ring.snapshots] == [s.tick for s in theirs.ring.snapshots]


@pytest.mark.parametrize(
    ("order", "data", "tick"),
    [("rollback-first", "replay", MIDDLE), ("rollback-last", "skip", LAST_OF_A_PASS)],
)
@pytest.mark.parametrize("part", PARTS)
def test_whichever_part_fails_the_run_is_the_undisturbed_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Undisturbed,
    part: str,
    order: str,
    data: str,
    tick: int,
) -> None:
    policy = POLICY.replace("ACTIONS", ORDERS[order]).format(data=data)
    plain = undisturbed(policy)
    once = Once(monkeypatch, PARTS[part])
    assert_untouched(tmp_path, policy, tick, Status.FAILED, *plain)
    assert once.failed


@pytest.mark.parametrize("refused", ["rollback", "scale_lr", "reweight"])
@pytest.mark.parametrize("order", ORDERS)
def test_whichever_part_is_refused_the_run_is_the_undisturbed_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Undisturbed,
    refused: str,
    order: str,
) -> None:
    def refuses(*_: Any) -> Any:
        raise Refused("not today")

    monkeypatch.setitem(act.ACTUATORS, refused, refuses)
    policy = POLICY.replace("ACTIONS", ORDERS[order]).format(data="replay")
    assert_untouched(tmp_path, policy, MIDDLE, Status.REFUSED, *undisturbed(policy))


@pytest.mark.parametrize("order", ORDERS)
def test_an_act_that_was_taken_back_can_be_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    policy = POLICY.replace("ACTIONS", ORDERS[order]).format(data="replay")
    done, _ = run(tmp_path / "once", policy, triggers={MIDDLE: 1.0})
    Once(monkeypatch, PARTS["weights, after"])
    policy = policy.replace("ladder:\n", "ladder:\n      - [ACTIONS]\n")
    policy = policy.replace("ACTIONS", ORDERS[order].format(data="replay"))
    again, _ = run(tmp_path / "twice", policy, triggers={MIDDLE - 3: 1.0, MIDDLE: 1.0})
    with JournalReader(tmp_path / "twice") as reader:
        assert [o.status for o in reader.outcomes()] == [Status.FAILED, Status.APPLIED]
    assert again.losses == done.losses
    assert again.matches(done)
