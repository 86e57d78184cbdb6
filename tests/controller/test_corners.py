"""Corners: where passes end, where acts fail half-way, and loops written unlike the examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_loop
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from prometheus_client import CollectorRegistry, generate_latest
from small_loop import Trace, dataset, pull_policy, train
from torch.utils.data import DataLoader

from midcourse import Controller, Mixture
from midcourse.controller.actuators.act import ACTUATORS
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.mix import Mix
from midcourse.controller.overrides import Kind, Layer, Layers
from midcourse.controller.signals import Recorder, count_examples
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Outcome, Status

torch.set_num_threads(1)

BACK = "rollback: {to: {steps: 12}, data: replay}"
QUARANTINE = "reweight: {source: b, to: 0, hold: 200}"
LAST_OF_A_PASS, MIDDLE = 20, 28


def outcomes(run: Trace | Controller) -> list[Outcome]:
    controller = run if isinstance(run, Controller) else run.controller
    assert controller is not None
    with JournalReader(controller.run_dir) as reader:
        return list(reader.outcomes())


@pytest.fixture
def steered(tmp_path: Path) -> Iterator[tuple[Accelerator, Controller]]:
    """An accelerator and its controller, which rolls back by 5 steps where ``trigger`` is logged."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    policy = parse_policy(pull_policy(BACK.replace("12", "5")))
    controller = Controller(accelerator, policy=policy, run_dir=tmp_path, say=lambda line: None)
    yield accelerator, controller
    controller.close()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setitem(ACTUATORS, "checkpoint", fails)


# -- where a pass ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tick", [LAST_OF_A_PASS, 2 * LAST_OF_A_PASS, 60])
def test_a_source_quarantined_at_its_end_makes_a_pass_no_longer(tmp_path: Path, tick: int) -> None:
    trace = train(tmp_path, pull_policy(QUARANTINE), triggers={tick: 1.0}, mixture=True)
    assert len(trace.ids) == 60
    assert not any(100 <= i < 200 for batch in trace.ids[tick:] for i in batch)


@pytest.mark.parametrize("tick", [LAST_OF_A_PASS, MIDDLE])
def test_a_loader_with_a_generator_of_its_own_is_rewound(
    tmp_path: Path, tick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeded(*args: Any, **kwargs: Any) -> DataLoader[Any]:
        return DataLoader(*args, **kwargs, generator=torch.Generator().manual_seed(3))

    monkeypatch.setattr(small_loop, "DataLoader", seeded)
    trace = train(tmp_path, pull_policy(BACK), triggers={tick: 1.0})
    assert [o.status for o in outcomes(trace)] == [Status.APPLIED]
    assert trace.matches(train())


@pytest.mark.parametrize("tick", [12, LAST_OF_A_PASS, 21, MIDDLE])
def test_a_rollback_that_also_reweights_restores_the_random_state(tmp_path: Path, tick: int) -> None:
    neutral = "reweight: {source: b, scale: 1.0}"
    trace = train(tmp_path, pull_policy(f"{BACK}, {neutral}"), triggers={tick: 1.0}, mixture=True)
    assert [o.status for o in outcomes(trace)] == [Status.APPLIED]
    assert trace.matches(train(mixture=True))


def test_overrides_that_end_with_no_source_left_change_nothing() -> None:
    layers, feed = Layers(), SimpleNamespace(draw=8, draws_per_batch=4, loader=DataLoader([1]))
    feed.refresh = lambda: None
    mix = Mix(Mixture({"a": range(9), "b": range(9)}, {"a": 1, "b": 0}), feed, layers)  # type: ignore[arg-type]
    layers.add(Layer("first", "weight/b", Kind.SET, 0.5, 1, hold=5))
    layers.add(Layer("second", "weight/a", Kind.SET, 0.0, 1))
    mix.apply_now(1)
    layers.expire(6)
    mix.follow(6)
    assert dict(mix.applied) == {"a": 0.0, "b": 0.5}


# -- all of an act or none of it ---------------------------------------------------------------------------


@pytest.mark.parametrize("tick", [17, LAST_OF_A_PASS])
@pytest.mark.parametrize(
    ("first", "mixture"),
    [
        (BACK, False),
        (BACK.replace("replay", "skip"), True),
        (BACK.replace("replay", "forward"), True),
        (QUARANTINE, True),
        (f"{BACK}, {QUARANTINE}", True),
        ("scale_lr: {factor: 0.1}", False),
        ("reset_moments: {}", False),
    ],
)
def test_an_act_whose_second_half_fails_leaves_no_trace(
    tmp_path: Path, full_disk: None, first: str, tick: int, mixture: bool
) -> None:
    plain = train(mixture=mixture)
    trace = train(tmp_path, pull_policy(f"{first}, checkpoint: {{}}"), triggers={tick: 1.0}, mixture=mixture)
    assert [o.status for o in outcomes(trace)] == [Status.FAILED]
    assert trace.ids == plain.ids
    assert trace.matches(plain)


# -- loops written unlike the examples ---------------------------------------------------------------------


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


@pytest.mark.parametrize(
    ("batch", "examples"),
    [
        ({"text": ["a", "b"], "x": torch.zeros(2, 3)}, 2),
        ([torch.tensor(1.0), (torch.zeros(4),)], 4),
        (["a", "b"], 0),
        (object(), 0),
        ({}, 0),
    ],
)
def test_batches_of_any_shape_are_counted(batch: Any, examples: int) -> None:
    assert count_examples(batch) == examples


def test_a_batch_without_a_tensor_in_front_is_trained_on_and_watched(steered: Any) -> None:
    accelerator, controller = steered
    model = torch.nn.Linear(3, 1)
    texts = [{"text": "a", "x": torch.ones(3)} for _ in range(80)]
    model, optimizer, loader = accelerator.prepare(
        model, sgd(model.parameters()), DataLoader(texts, batch_size=4)
    )
    ticks = 0
    for _ in controller.epochs(1):
        for batch in loader:
            ticks += 1
            accelerator.backward(model(batch["x"]).square().mean())
            controller.log(trigger=float(ticks == 10))
            optimizer.step()
            optimizer.zero_grad()
    assert [o.status for o in outcomes(controller)] == [Status.APPLIED]
    assert ticks == 25


def test_a_scheduler_may_be_made_of_the_prepared_optimizer(steered: Any) -> None:
    accelerator, controller = steered
    model = torch.nn.Linear(8, 1)
    _, optimizer, loader = accelerator.prepare(
        model, sgd(model.parameters()), DataLoader(dataset(), batch_size=8)
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    for _ in controller.epochs(1):
        for x, *_ in loader:
            accelerator.backward(model(x).square().mean())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert scheduler.get_last_lr() == pytest.approx([0.01 * 0.1**4])
    # It is not restored, so data cannot be rewound: said at the start.
    assert "scheduler" in controller._wiring.cycle.run.rewinds


def test_what_is_prepared_a_second_time_is_no_second_one(steered: Any) -> None:
    accelerator, controller = steered
    model = torch.nn.Linear(8, 1)
    model, optimizer = accelerator.prepare(model, sgd(model.parameters()))
    loader = accelerator.prepare(DataLoader(dataset(), batch_size=8))
    again, loader = accelerator.prepare(optimizer, loader)
    assert again is optimizer
    for x, *_ in loader:
        accelerator.backward(model(x).square().mean())
        optimizer.step()
        optimizer.zero_grad()
    assert controller._wiring.cycle.run.clock.tick == 20


@pytest.mark.parametrize("prepared", [True, False])
def test_parameters_of_no_prepared_model_go_back_too(steered: Any, prepared: bool) -> None:
    accelerator, controller = steered
    model, temperature = torch.nn.Linear(8, 1), torch.nn.Parameter(torch.ones(1))
    parts = [sgd([*model.parameters(), temperature]), DataLoader(dataset(), batch_size=8)]
    optimizer, loader, *_ = accelerator.prepare(*parts, *([model] if prepared else []))
    before: list[tuple[float, float]] = []
    for _ in controller.epochs(1):
        for x, y, *_ in loader:
            before.append((temperature.item(), model.bias.item()))
            accelerator.backward((model(x) * temperature - y).square().mean())
            controller.log(trigger=float(len(before) == 10))
            optimizer.step()
            optimizer.zero_grad()
    assert before[10:15] == before[5:10]


def test_a_step_that_calls_its_parents_is_one_tick(steered: Any) -> None:
    class Mine(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            return super().step(closure)

    accelerator, controller = steered
    model = torch.nn.Linear(8, 1)
    sgd(model.parameters())  # torch hooks the parent's step when one is made
    model, optimizer = accelerator.prepare(model, Mine(model.parameters(), lr=0.1))
    for _ in range(3):
        accelerator.backward(model(torch.ones(8)).square().sum())
        optimizer.step()
        optimizer.zero_grad()
    assert controller._wiring.cycle.run.clock.tick == 3


def test_one_controller_at_a_time_holds_an_accelerator(steered: Any, tmp_path: Path) -> None:
    accelerator, controller = steered
    with pytest.raises(ValueError, match="close"):
        Controller(accelerator, run_dir=tmp_path / "second")
    controller.close()
    Controller(accelerator, run_dir=tmp_path / "second").close()


def test_runs_one_after_another_share_a_registry(tmp_path: Path) -> None:
    registry, accelerator = CollectorRegistry(), Accelerator(cpu=True)
    for name in ("first", "second"):
        controller = Controller(accelerator, run_dir=tmp_path / name, registry=registry)
        lines = generate_latest(registry).decode().splitlines()
        assert sum(line.startswith("midcourse_tick ") for line in lines) == 1
        controller.close()


def test_parameters_added_after_the_snapshot_fail_the_rollback_and_nothing_else(steered: Any) -> None:
    accelerator, controller = steered
    model = torch.nn.Linear(8, 1)
    model, optimizer, loader = accelerator.prepare(
        model, sgd(model.parameters()), DataLoader(dataset(), batch_size=8)
    )
    ticks = 0
    for _ in controller.epochs(1):
        for x, y, *_ in loader:
            ticks += 1
            accelerator.backward((model(x) - y).square().mean())
            controller.log(trigger=float(ticks == 9))
            optimizer.step()
            optimizer.zero_grad()
            if ticks == 9:
                optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    outcome = outcomes(controller)[0]
    assert (outcome.status, "2" in outcome.reason) == (Status.FAILED, True)
    assert ticks == 20


def test_a_loop_that_calls_the_loss_backward_itself_is_rewound(steered: Any) -> None:
    accelerator, controller = steered
    model = torch.nn.Linear(8, 1)
    model, optimizer, loader = accelerator.prepare(
        model, sgd(model.parameters()), DataLoader(dataset(), batch_size=8)
    )
    seen: list[int] = []
    for _ in controller.epochs(1):
        for x, y, ids in loader:
            seen.append(int(ids[0]))
            (model(x) - y).square().mean().backward()
            controller.log(trigger=float(len(seen) == 10))
            optimizer.step()
            optimizer.zero_grad()
    assert seen == [*range(0, 80, 8), *range(40, 160, 8)]


def test_sparse_gradients_are_measured(steered: Any) -> None:
    accelerator, controller = steered
    model = torch.nn.EmbeddingBag(10, 3, sparse=True)
    model, optimizer = accelerator.prepare(model, torch.optim.SparseAdam(model.parameters(), lr=0.01))
    for _ in range(3):
        accelerator.backward(model(torch.tensor([[1, 2, 1]])).square().sum())
        optimizer.step()
        optimizer.zero_grad()
    controller.close()
    with JournalReader(controller.run_dir) as reader:
        assert [sample.signals["grad_norm"] > 0 for sample in reader.samples()] == [True] * 3


# -- signals that cannot be taken as they are --------------------------------------------------------------


def test_a_vector_is_refused_where_it_is_logged() -> None:
    with pytest.raises(ValueError, match=r"log\(aux=...\): one number is wanted, got shape \(3,\)"):
        Recorder().log({"aux": torch.ones(3)})


def test_many_losses_in_half_precision_are_summed_without_loss() -> None:
    recorder = Recorder(["a"])
    for _ in range(4):
        recorder.by_source.add(torch.ones(1000, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.int64))
    sums, _ = recorder.on_host()
    assert sums[recorder.names.index("loss/source=a")] == 4000.0
