"""A small Accelerate loop whose parts can be chosen, for tests of what a rollback restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, DistributedType, FullyShardedDataParallelPlugin
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info

from midcourse import Controller, Mixture
from midcourse.policies.policy import parse_policy

EXAMPLES = 160
BATCH = 8

PULL = """
version: 1
signals: [trigger]
snapshots: {{keep: 6, reach: 160, every: 5}}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    ladder:
      - [{actions}]
"""


RESUMABLE = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
checkpoints: {every: 5, keep: 100}  # of which the ring in memory holds some
monitors:
  rise: {type: sustained_rise, signal: loss}
rules:
  - name: back
    when: trigger.value > 0.5
    budget: {acts: 3, per: 1000}
    cooldown: 2
    ladder:
      - [rollback: {to: {steps: 12}, data: replay}, scale_lr: {factor: 0.5, hold: 10, ramp: 10}]
      - [rollback: {to: {steps: 12}, data: replay}]
    verify: {within: 6, expect: trigger.value < 0.5}
"""
"""A policy with all that a process must find again: two rungs on trial, a layer, checkpoints."""


def pull_policy(actions: str) -> str:
    """A policy that does these when the loop logs ``trigger``."""
    return PULL.format(actions=actions)


def rollback_policy(data: str, to: str = "{steps: 12}") -> str:
    """A policy that rolls back when the loop logs ``trigger``."""
    return pull_policy(f"rollback: {{to: {to}, data: {data}}}")


class Died(Exception):
    """Ends a loop as a fault of its own would."""


@dataclass
class Trace:
    """What a loop did: example ids and loss of each micro-batch in order, parameters at the end."""

    ids: list[list[int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ticks: list[int] = field(default_factory=list)
    parameters: list[torch.Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    controller: Controller | None = None
    errors: int = 0
    """Failed checkpoints, as the metrics show them."""

    def matches(self, other: Trace) -> bool:
        """Whether both ended with the same parameters, bit for bit."""
        return all(torch.equal(a, b) for a, b in zip(self.parameters, other.parameters, strict=True))


def sources() -> dict[str, TensorDataset]:
    """Three sources of (x, y, id)."""
    made = {}
    for number, name in enumerate(("a", "b", "c")):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(60, 8, generator=generator)
        made[name] = TensorDataset(x, x.sum(1, keepdim=True), torch.arange(60) + 100 * number)
    return made


def uneven_sources() -> dict[str, TensorDataset]:
    """The same, but what ``c`` asks for contradicts the others: who has the larger share is fitted."""
    made = sources()
    x, y, ids = made["c"].tensors
    return {**made, "c": TensorDataset(x, 2.5 * y, ids)}


def dataset(examples: int = EXAMPLES) -> TensorDataset:
    """One source of (x, y, id)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 8, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True), torch.arange(examples))


def shard_on_cpu(precision: str | None = None) -> None:
    """Have the Accelerator that was just made prepare models with FSDP2: on a CPU it ignores its plugin."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    if precision is not None:
        plugin.set_mixed_precision(precision)
    AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin


def full(tensor: Any) -> torch.Tensor:
    """A copy of all of a tensor, also of one that the processes hold in parts."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


class Stream(IterableDataset[Any]):
    """The one source in an order of its own making, without a state that one could see."""

    def __init__(self) -> None:
        self._data = dataset()
        self._order = torch.Generator().manual_seed(4)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        order = torch.randperm(EXAMPLES, generator=self._order).tolist()
        for i in order if worker is None else order[worker.id :: worker.num_workers]:
            yield self._data[i]


class StatefulStream(Stream):
    """One that goes on from pass to pass as its state says."""

    def state_dict(self) -> dict[str, Any]:
        return {"order": self._order.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.set_state(state["order"])


def network(width: int = 16) -> torch.nn.Module:
    """A small network with dropout."""
    return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Dropout(0.2), torch.nn.Linear(width, 1))


def train(
    run_dir: Path | None = None,
    policy: str | Path = "",
    *,
    triggers: dict[int, float] | None = None,
    epochs: int = 3,
    workers: int = 0,
    accumulation: int = 1,
    mixture: bool = False,
    data: Callable[[], dict[str, TensorDataset]] = sources,
    log_sources: bool = False,
    batches: int = EXAMPLES // BATCH,
    seedable: bool = False,
    examples: int = EXAMPLES,
    loading: dict[str, Any] | None = None,
    sharded: bool = False,
    compiled: bool = False,
    precision: str | None = None,
    stream: Callable[[], IterableDataset[Any]] | None = None,
    dispatched: bool | None = None,
    owned: bool = True,
    unprepared: bool = False,
    break_off: int | None = None,
    build: Callable[[], torch.nn.Module] = network,
    scaler: torch.amp.GradScaler | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda p: torch.optim.AdamW(p, lr=1e-2),
    schedule: Callable[[Any], Any] | None = None,
    per_epoch: bool = False,
    evaluate: Callable[[], None] | None = None,
    also: dict[str, dict[int, float]] | None = None,
    announce: dict[int, tuple[str, ...]] | None = None,
    die_at: int | None = None,
    peeks: bool = False,
    clips: bool = True,
    spoil: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
    after_step: Callable[[], object] = lambda: None,
    registered: dict[str, Any] | None = None,
    on_rollback: Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> Trace:
    """Train a small network; ``triggers`` logs ``trigger`` at these ticks, ``also`` other signals.

    ``policy`` is its text, or a file. ``spoil(tick, loss)`` may change a tick's loss; ``announce`` names
    signals that are expected to change, by tick. ``log_sources`` tells the losses of the mixture of ``data``
    by source. At tick ``die_at`` the loop raises ``Died``. The first pass breaks off after ``break_off``
    batches; a pass of the mixture has ``batches``. Without ``run_dir`` Midcourse stays away. ``loading``
    configures Accelerate's loaders; ``sharded`` is FSDP2 in place of DDP; ``peeks`` runs the model without a
    backward after every update but each fifth, at which snapshots are taken.
    """
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)
    model: Any = build()
    chosen = optimizer(model.parameters())
    scheduler = schedule(chosen) if schedule is not None else None
    if mixture:
        mixed = Mixture(data(), seed=1, epoch_size=batches * BATCH)
        loader: Any = mixed.loader(BATCH, num_workers=workers)
    elif stream is not None:
        loader = DataLoader(stream(), batch_size=BATCH, num_workers=workers)
    else:
        loader = DataLoader(dataset(examples), batch_size=BATCH, shuffle=True, num_workers=workers)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulation,
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=seedable, dispatch_batches=dispatched, **(loading or {})
        ),
        mixed_precision=precision,
    )
    if sharded:
        shard_on_cpu(precision)
    if scaler is not None:
        accelerator.scaler = scaler
    trace = Trace()
    controller = None
    if run_dir is not None:
        controller = Controller(
            accelerator,
            policy=parse_policy(policy) if isinstance(policy, str) else policy,
            run_dir=run_dir,
            **{"say": lambda line: None, **kwargs},
        )
        trace.controller = controller
        for name, obj in (registered or {}).items():
            controller.register(name, obj)
        if on_rollback is not None:
            controller.on_rollback(on_rollback)
    if compiled:
        model = torch.compile(model, backend="eager")
    parts = [model, chosen, loader] + ([scheduler] if scheduler is not None else [])
    own, given = loader, parts if not unprepared else [part for part in parts if part is not loader]
    model, prepared, *others = accelerator.prepare(*given)
    loader, *rest = others if not unprepared else [own, *others]
    counter = controller.epochs(epochs) if controller is not None and owned else range(epochs)
    tick = 0
    for _ in counter:
        if controller is not None and controller.resumed is not None:
            assert controller._wiring.cycle is not None
            tick = controller._wiring.cycle.run.clock.tick
        model.train()
        for batch in islice(loader, break_off if tick == 0 else None):
            x, y, ids = batch[:3] if not isinstance(batch, dict) else (batch["x"], batch["y"], batch["id"])
            with accelerator.accumulate(model) if accumulation > 1 else nullcontext():
                squares = (model(x) - y) ** 2
                loss = squares.mean()
                if log_sources and controller is not None:
                    controller.log_examples(squares.detach().mean(1), batch[3])
                if spoil is not None:
                    loss = spoil(tick + 1, loss)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    if clips:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    if controller is not None:
                        signals = {"trigger": triggers or {}, **(also or {})}
                        controller.log(**{name: at.get(tick + 1, 0.0) for name, at in signals.items()})
                        if announce is not None and tick + 1 in announce:
                            controller.expect_change(*announce[tick + 1])
                    tick += 1
                    trace.rates.append(chosen.param_groups[0]["lr"])
                prepared.step()
                if accelerator.sync_gradients:
                    after_step()
                if rest and not per_epoch:
                    plateau = isinstance(scheduler, ReduceLROnPlateau)
                    rest[0].step(*[loss.detach()] if plateau else [])
                prepared.zero_grad()
            if tick == die_at:
                assert controller is not None
                controller.close()
                raise Died
            if peeks and tick % 5:
                model.eval()
                with torch.no_grad():
                    model(x)
                model.train()
            trace.ids.append(ids.tolist())
            trace.losses.append(float(loss.detach()))
            trace.ticks.append(tick)
        if rest and per_epoch:
            rest[0].step()
        if evaluate is not None:
            evaluate()
    accelerator.end_training()
    if controller is not None and controller._records is not None:
        shown = controller._records.metrics.collect()
        errors = next(family for family in shown if family.name == "midcourse_errors")
        trace.errors = round(sum(s.value for s in errors.samples if s.labels["component"] == "checkpoint"))
    trace.parameters = [full(p) for p in model.parameters()]
    return trace
