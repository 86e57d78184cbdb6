"""How much is done at a tick at which nothing happens: counted, since it cannot be timed on every machine."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

import midcourse
from midcourse import Controller, Mixture
from midcourse.controller.records import Records
from midcourse.monitors.types import Sample
from midcourse.policies.model import Mode
from midcourse.policies.policy import parse_policy

ROOMS = tuple(str(Path(midcourse.__path__[0]).resolve() / room) for room in ("controller", "policies"))
WARM_UP = 100  # ticks: detectors have warmed up, and what is looked for at first is settled
MOST_CALLS = 49
"""Of our own functions at a tick, monitors and the data left out: each costs about a microsecond there."""


def loop(controlled: Callable[[Accelerator], Controller] | None) -> Iterator[None]:
    """An ordinary loop over three sources that stands still after each tick."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    controller = controlled(accelerator) if controlled else None
    sources = {
        name: TensorDataset(torch.randn(256, 4), torch.randn(256, 1)) for name in ("web", "code", "books")
    }
    model: Any = torch.nn.Linear(4, 1)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = Mixture(sources, seed=0, epoch_size=4096).loader(8)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y, source in loader:
        losses = (model(x) - y).square().mean(1)
        if controller is not None:
            controller.log_examples(losses, source)
            controller.log(seen=8.0)
        accelerator.backward(losses.mean())
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield
    accelerator.end_training()


def steady(tmp_path: Path, **given: Any) -> Iterator[None]:
    """The same loop under the baseline policy, at a tick at which nothing is due."""

    def controlled(accelerator: Accelerator) -> Controller:
        return Controller(accelerator, run_dir=tmp_path, norms_every=10**6, say=lambda line: None, **given)

    ticks = loop(controlled)
    for _ in range(WARM_UP):
        next(ticks)
    return ticks


@pytest.mark.parametrize(("condition", "waits"), [("rise.bad", True), ("rise.bad and stalled.bad", False)])
def test_while_only_that_is_bad_which_no_rule_reads_measurements_wait(
    condition: str, waits: bool, tmp_path: Path
) -> None:
    plan = f"""
version: 1
monitors:
  stalled: {{type: stalled, signal: loss}}
  rise: {{type: sustained_rise, signal: loss}}
rules:
  - name: off-course
    when: {condition}
    ladder: [[stop: {{}}]]
"""
    records = Records.open(
        parse_policy(plan), tmp_path, sources=(), registry=None, port=None, facts={}, clock=time.perf_counter
    )
    noise, ages = Random(0), []
    held = records.pilot.bank.readings
    for tick in range(1, 4000):
        loss = noise.gauss(2 + 20 * (min(tick, 2000) + 10) ** -0.3, 0.1)
        records.pilot.judge(Sample(tick, tick, 0, {"loss": loss}))
        if held["stalled"][""].bad:
            ages.append(tick - held["rise"][""].tick)
    records.close()
    assert len(ages) > 100
    assert any(ages) is waits


class Operations(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def calls_of(ticks: Iterator[None]) -> Counter[str]:
    """Our own functions that a tick calls, without those that serve the data."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(ROOMS) and not file.endswith("mixture_loader.py"):
            calls[f"{Path(file).name}:{frame.f_code.co_name}"] += 1

    sys.setprofile(count)
    try:
        next(ticks)
    finally:
        sys.setprofile(None)
    return calls


def test_a_tick_at_which_nothing_happens_calls_few_functions(tmp_path: Path) -> None:
    ticks = steady(tmp_path)
    # A snapshot or a look at what came from outside may fall on a tick, but not on all of them.
    calls = min((calls_of(ticks) for _ in range(5)), key=lambda calls: calls.total())
    assert 0 < calls.total() <= MOST_CALLS, calls.most_common()
    ticks.close()


@pytest.mark.parametrize("mode", list(Mode))
def test_it_reads_the_loss_and_the_norm_and_computes_nothing_else(mode: Mode, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\nextends: baseline\nmode: {mode.value}\n", encoding="utf-8")
    bare = loop(None)
    for _ in range(WARM_UP):
        next(bare)
    ticks = steady(tmp_path / "run", policy=policy)
    with Operations() as without:
        next(bare)
    with Operations() as ours:
        next(ticks)
    made = ours.counts - without.counts
    made.pop("aten.detach.default")  # what torch counts where numpy looks at the batch
    assert made == {"aten._local_scalar_dense.default": 2}
    ticks.close()
