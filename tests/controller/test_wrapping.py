"""Wrapping: two added lines, nothing changed while nothing fires, ambiguity told, failures survived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from small_loop import Trace, dataset, train
from torch.utils.data import DataLoader

from midcourse import Controller, TrainingStopped
from midcourse.controller.durable.files import load
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Disposition, Status

torch.set_num_threads(1)

WATCH = """
version: 1
mode: {mode}
monitors:
  guard: {{type: guard}}
  rise: {{type: sustained_rise, signal: loss}}
rules:
  - name: bad-step
    when: guard.bad
    budget: {{acts: 3, per: 1000}}
    ladder:
      - [skip_step: {{}}]
      - [stop: {{}}]
  - name: off-course
    when: rise.bad
    budget: {{acts: 3, per: 1000}}
    ladder:
      - [rollback: {{to: before_onset, data: skip}}, scale_lr: {{factor: 0.5, hold: 20, ramp: 10}}]
"""

TRIGGERED = """
version: 1
signals: [trigger]
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    ladder:
      - [{action}]
"""


def watch(mode: str = "act") -> str:
    return WATCH.format(mode=mode)


def pull(action: str) -> str:
    return TRIGGERED.format(action=action)


def recorded(trace: Trace) -> tuple[list[Any], list[Any]]:
    assert trace.controller is not None
    with JournalReader(trace.controller.run_dir) as reader:
        return list(reader.decisions()), list(reader.outcomes())


def nan_at(*ticks: int) -> Any:
    return lambda tick, loss: loss * float("nan") if tick in ticks else loss


@pytest.mark.parametrize("mode", ["act", "observe"])
@pytest.mark.parametrize(
    "loop", [{}, {"accumulation": 3}, {"mixture": True}, {"workers": 2}, {"seedable": True}]
)
def test_a_run_in_which_nothing_fires_is_bitwise_the_same(
    tmp_path: Path, mode: str, loop: dict[str, Any]
) -> None:
    plain = train(epochs=2, **loop)
    watched = train(tmp_path, watch(mode), epochs=2, owned=mode == "act", **loop)
    assert watched.losses == plain.losses
    assert watched.ids == plain.ids
    assert watched.matches(plain)


def test_observe_decides_and_records_and_changes_nothing(tmp_path: Path) -> None:
    spoil = nan_at(20)
    plain = train(spoil=spoil)
    watched = train(tmp_path, watch("observe"), spoil=spoil)
    decisions, outcomes = recorded(watched)
    assert [d.disposition for d in decisions][:1] == [Disposition.OBSERVE]
    assert outcomes == []
    assert str(watched.losses) == str(plain.losses)


def test_a_nonfinite_step_is_skipped_before_the_update(tmp_path: Path) -> None:
    watched = train(tmp_path, watch(), spoil=nan_at(20, 31))
    decisions, outcomes = recorded(watched)
    acts = [(d.tick, d.actions[0].name) for d in decisions if d.disposition is Disposition.ACT]
    assert acts == [(20, "skip_step"), (31, "skip_step")]
    assert [o.status for o in outcomes] == [Status.APPLIED] * 2
    assert all(torch.isfinite(p).all() for p in watched.parameters)


def test_a_fault_that_stays_ends_in_stop_with_the_good_state_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"Controller\(..., resume=") as raised:
        train(tmp_path, watch(), spoil=nan_at(*range(70, 200)), epochs=12, owned=False)
    assert "bad-step" in str(raised.value)
    manifest, tensors, _ = load(tmp_path / "checkpoints" / "stopped", rank=0)
    assert manifest.tick == manifest.step < 70  # where the saved state stood, not where the run was stopped
    assert "model.0.weight" in tensors
    assert all(torch.isfinite(t).all() for t in tensors.values())


def test_stop_ends_owned_counters_without_an_exception(tmp_path: Path) -> None:
    trace = train(tmp_path, pull("stop: {}"), triggers={25: 1.0})
    assert len(trace.losses) == 25
    assert trace.controller is not None
    assert "resume=" in (trace.controller.stopped or "")


def test_a_cut_learning_rate_holds_ramps_and_leaves_the_schedule_alone(tmp_path: Path) -> None:
    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)

    action = "scale_lr: {factor: 0.1, hold: 10, ramp: 9}"
    plain = train(schedule=schedule)
    cut = train(tmp_path, pull(action), triggers={20: 1.0}, schedule=schedule)
    assert cut.rates == plain.rates
    assert cut.controller is not None
    with JournalReader(cut.controller.run_dir) as reader:
        effective = [sample.signals["lr"] for sample in reader.samples()]
    factors = [e / own for e, own in zip(effective, plain.rates, strict=True)]
    assert factors[:20] == pytest.approx([1.0] * 20)
    assert factors[20:30] == pytest.approx([0.1] * 10)
    assert factors[30:39] == pytest.approx([0.1 + 0.9 * k / 10 for k in range(1, 10)])
    assert factors[39:] == pytest.approx([1.0] * 21)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_quarantine_reaches_the_very_next_batch_and_ends_in_probation(tmp_path: Path, workers: int) -> None:
    action = "reweight: {source: b, to: 0, hold: 20, ramp: 5}"
    trace = train(tmp_path, pull(action), triggers={20: 1.0}, mixture=True, workers=workers)
    of_b = [sum(100 <= i < 200 for i in batch) for batch in trace.ids]
    assert all(of_b[:20])
    assert not any(of_b[20:40])
    # The ramp's last stage, at 45, waits until what two workers have prefetched is consumed. A third of eight
    # examples is 2.7; eight batches are few.
    assert 1.5 < sum(of_b[52:]) / len(of_b[52:]) < 4.0


def test_reweighting_a_plain_loader_is_refused(tmp_path: Path) -> None:
    trace = train(tmp_path, pull("reweight: {source: b, to: 0}"), triggers={20: 1.0})
    assert [(o.status, "not a Mixture" in o.reason) for o in recorded(trace)[1]] == [(Status.REFUSED, True)]


def test_a_checkpoint_is_complete_and_loads(tmp_path: Path) -> None:
    trace = train(tmp_path, pull("checkpoint: {}"), triggers={20: 1.0})
    path = Path(recorded(trace)[1][0].details["checkpoint"]["path"])
    assert path.name == "at-00000020"
    assert load(path, rank=0)[0].tick == 20
    assert not list(tmp_path.rglob("*partial"))


def test_moments_are_dropped_by_reset_moments(tmp_path: Path) -> None:
    trace = train(tmp_path, pull("reset_moments: {}"), triggers={20: 1.0})
    assert recorded(trace)[1][0].details["reset_moments"]["parameters"] == 4
    assert not trace.matches(train())


def test_a_step_that_raises_leaves_the_users_rate_in_place(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    policy = parse_policy(pull("scale_lr: {factor: 0.1}"))
    controller = Controller(accelerator, policy=policy, run_dir=tmp_path, say=lambda line: None)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model, prepared, loader = accelerator.prepare(model, optimizer, DataLoader(dataset(), batch_size=8))
    inner, broken = prepared.optimizer, False

    def breaks(*_: Any) -> None:
        if broken:
            raise RuntimeError("boom")

    inner.register_step_pre_hook(breaks)
    for n, (x, y, _) in enumerate(loader):
        accelerator.backward(((model(x) - y) ** 2).mean())
        controller.log(trigger=float(n == 2))
        broken = n == 5
        if broken:
            with pytest.raises(RuntimeError, match="boom"):
                prepared.step()
            break
        prepared.step()
        prepared.zero_grad()
    assert inner.param_groups[0]["lr"] == 0.5
    controller.close()


def test_two_optimizers_are_ambiguous_unless_one_is_named(tmp_path: Path) -> None:
    policy = parse_policy(watch())
    models = [torch.nn.Linear(1, 1) for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    accelerator = Accelerator(cpu=True)
    controller = Controller(accelerator, policy=policy, run_dir=tmp_path / "a", say=lambda line: None)
    with pytest.raises(ValueError, match="optimizer=optimizer"):
        accelerator.prepare(*models, *optimizers)
    controller.close()
    accelerator = Accelerator(cpu=True)
    named = Controller(
        accelerator, policy=policy, run_dir=tmp_path / "b", optimizer=optimizers[1], say=lambda line: None
    )
    accelerator.prepare(*models, *optimizers)
    named.close()


def test_two_loaders_read_at_once_are_ambiguous_unless_one_is_named(tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> None:
        accelerator = Accelerator(cpu=True)
        controller = Controller(
            accelerator,
            policy=parse_policy(watch()),
            run_dir=tmp_path / folder,
            say=lambda line: None,
            **kwargs,
        )
        model = torch.nn.Linear(8, 1)
        model, optimizer, one, two = accelerator.prepare(
            model, torch.optim.SGD(model.parameters(), lr=0.1), loaders[0], loaders[1]
        )
        try:
            for (x, y, _), _ in zip(one, two, strict=True):
                accelerator.backward(((model(x) - y) ** 2).mean())
                optimizer.step()
                optimizer.zero_grad()
        finally:
            controller.close()

    loaders = [DataLoader(dataset(), batch_size=8) for _ in range(2)]
    with pytest.raises(ValueError, match="training_loader=loader"):
        run("a")
    loaders = [DataLoader(dataset(), batch_size=8) for _ in range(2)]
    run("b", training_loader=loaders[0])


def test_evaluation_loaders_are_left_alone(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    policy = parse_policy(watch())
    controller = Controller(accelerator, policy=policy, run_dir=tmp_path, say=lambda line: None)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loaders = [DataLoader(dataset(), batch_size=8) for _ in range(2)]
    model, optimizer, training, evaluation = accelerator.prepare(model, optimizer, *loaders)
    for _ in controller.epochs(2):
        for x, y, _ids in training:
            accelerator.backward(((model(x) - y) ** 2).mean())
            optimizer.step()
            optimizer.zero_grad()
        assert sum(len(ids) for *_, ids in evaluation) == 160
    assert isinstance(training, DataLoader)
    assert len(training) == 20
    controller.close()


def test_closing_leaves_the_accelerator_as_it_was(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    before = set(vars(accelerator))
    policy = parse_policy(watch())
    controller = Controller(accelerator, policy=policy, run_dir=tmp_path, say=lambda line: None)
    assert set(vars(accelerator)) - before == {
        "prepare",
        "prepare_data_loader",
        "prepare_optimizer",
        "prepare_scheduler",
        "backward",
        "clip_grad_norm_",
        "skip_first_batches",
        "load_state",
        "free_memory",
        "end_training",
    }
    controller.close()
    assert set(vars(accelerator)) == before
    controller.close()


def test_a_failure_of_our_own_leaves_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from midcourse.controller.pilot import Pilot

    calls = iter(range(1000))

    def fails(*args: Any) -> None:
        if next(calls) == 10:
            raise RuntimeError("a bug of ours")

    original = Pilot.judge
    monkeypatch.setattr(Pilot, "judge", lambda self, sample: fails() or original(self, sample))
    assert train(tmp_path, watch()).matches(train())


def test_a_lost_journal_turns_acting_into_observing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from midcourse.controller.journal.store import Journal, JournalError

    def lost(self: Journal, decision: Any) -> None:
        raise JournalError("disk full")

    monkeypatch.setattr(Journal, "decision", lost)
    trace = train(tmp_path, pull("scale_lr: {factor: 0.1}"), triggers={20: 1.0, 30: 1.0})
    assert trace.matches(train())
