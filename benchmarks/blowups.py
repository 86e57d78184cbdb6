"""Real training runs that blow up, and healthy ones: the demo's transformer with faults set on purpose.

All faults of a seed begin from one healthy run, so that they differ in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from runs import Run
from torch import Tensor

from midcourse.controller.demo.corpus import WINDOW, Corpus, load_corpus
from midcourse.controller.demo.model import ByteTransformer, byte_losses
from midcourse.controller.norms import Norms, gradient_norm
from midcourse.monitors.types import SOURCE_PREFIX

BATCH = 16
RATE = 3e-3
"""The demo's peak learning rate: about half of what its transformer bears for long."""

BETAS = (0.9, 0.999)
CLIP = 1.0
WARM_UP = 50
RESTART = 500
FULL_NOISE = 400  # steps until a ramp of label noise would hit half of the rows

Shape = Callable[[int], float]


def _always(value: float) -> Shape:
    return lambda step: value


def _creep(percent: float) -> Shape:
    return lambda step: (1 + percent / 100) ** step


@dataclass(frozen=True, slots=True)
class Lengths:
    """Steps of the runs.

    Args:
        begin: Healthy ones before a fault: norms that are measured every tenth step are judged from 640 on,
            and it begins midway between two of those measurements.
        after: Of a fault: a rate that creeps up by 1 % a step is then 20 times as high.
        healthy: Of a healthy run.
    """

    begin: int = 805
    after: int = 300
    healthy: int = 2000


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, by the steps since it began.

    Args:
        name: For the table.
        rate: The learning rate's multiplier.
        noise: Share of a batch's rows whose bytes are drawn at random.
        foreign: Whether all rows are machine code, which the run has never seen.
        betas: Adam's from then on.
        clip: Whether the loop clips, before the fault as well.
    """

    name: str
    rate: Shape = lambda step: 1.0
    noise: Shape = lambda step: 0.0
    foreign: bool = False
    betas: tuple[float, float] = BETAS
    clip: bool = True


FAULTS = (
    Fault("rate +1 % a step", _creep(1)),
    Fault("rate +2 % a step", _creep(2)),
    Fault("rate x3", _always(3)),
    Fault("rate x8", _always(8)),
    Fault("rate x30", _always(30)),
    Fault("rate +1 % a step, no clipping", _creep(1), clip=False),
    Fault("rate +2 % a step, no clipping", _creep(2), clip=False),
    Fault("rate x3, no clipping", _always(3), clip=False),
    Fault("rate x8, no clipping", _always(8), clip=False),
    Fault("beta2 0.5", betas=(0.9, 0.5)),
    Fault("beta2 0.5, rate +1 % a step", _creep(1), betas=(0.9, 0.5)),
    Fault("sudden machine code", foreign=True),
    Fault("label noise 50 %, 20 steps", noise=lambda step: 0.5 if step < 20 else 0.0),
    Fault("label noise, slowly more", noise=lambda step: 0.5 * step / FULL_NOISE),
)


def _warm(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP)


def _cosine(progress: float) -> float:
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "cosine": lambda step, steps: _warm(step) * _cosine(step / steps),
    "warm restarts": lambda step, steps: _warm(step) * _cosine(step % RESTART / RESTART),
}
"""Of healthy runs besides the constant one, which the faults begin in; by step and number of steps."""


@cache
def _corpus() -> Corpus:
    return load_corpus()


class Training:
    """One run of the demo's transformer, step by step, measured as the controller measures it."""

    def __init__(self, seed: int, clip: bool) -> None:
        torch.manual_seed(seed)
        self.clip = clip
        self.steps = 0
        self.draws = np.random.default_rng(seed)
        self.model = ByteTransformer()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=BETAS)
        self.norms = Norms(list(self.model.parameters()), every=1, moments=self.optimizer)

    def step(
        self,
        rate: float = 1.0,
        noise: float = 0.0,
        foreign: bool = False,
        shares: Sequence[float] | None = None,
    ) -> dict[str, float]:
        """One update at a multiple of the rate; returns its signals. ``shares`` are those of the sources."""
        self.steps += 1
        text, numbers = self._batch(noise, foreign, shares)
        losses = byte_losses(self.model, text)
        loss = losses.mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * rate
        norm = gradient_norm(self.optimizer)  # before clipping, as the controller takes it
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), CLIP, norm)
        self.norms.before_step(self.steps)
        self.optimizer.step()
        told = self.norms.after_step(self.steps, 1.0)
        signals = {"loss": loss.item(), "grad_norm": float(norm), "lr": RATE * rate}
        for number, name in enumerate(() if foreign else _corpus().train):
            if (own := numbers == number).any():
                signals[f"{SOURCE_PREFIX}{name}"] = losses[own].mean().item()
        return signals | {k: float(v) for k, v in told.items()}

    def _batch(self, noise: float, foreign: bool, shares: Sequence[float] | None) -> tuple[Tensor, Tensor]:
        """The rows, and the number of each one's source."""
        sources = [_corpus().binaries] if foreign else list(_corpus().train.values())
        rows = []
        if shares is None:
            numbers = self.draws.integers(len(sources), size=BATCH)
        else:
            numbers = self.draws.choice(len(sources), size=BATCH, p=shares)
        for number in numbers:
            windows = sources[number].windows
            rows.append(windows[int(self.draws.integers(len(windows)))].long())
        text = torch.stack(rows)
        bad = torch.from_numpy(self.draws.random(BATCH) < noise)
        drawn = torch.from_numpy(self.draws.integers(256, size=(BATCH, WINDOW)))
        return torch.where(bad[:, None], drawn, text), torch.from_numpy(numbers)


def constant_runs(seed: int, clip: bool, lengths: Lengths) -> Iterator[Run]:
    """A healthy run at a constant rate, and every fault of this seed that begins in it."""
    healthy = Training(seed, clip)
    before = [healthy.step(_warm(step)) for step in range(lengths.begin)]
    for fault in FAULTS:
        if fault.clip == clip:
            training = deepcopy(healthy)
            training.optimizer.param_groups[0]["betas"] = fault.betas
            after = [
                training.step(fault.rate(step), fault.noise(step), fault.foreign)
                for step in range(lengths.after)
            ]
            signals = by_name(before + after)
            yield Run(fault.name, str(seed), signals, onset=lengths.begin, within=lengths.after)
    before += [healthy.step() for _ in range(lengths.healthy - lengths.begin)]
    yield Run("constant" if clip else "constant, no clipping", str(seed), by_name(before))


def scheduled_run(seed: int, schedule: str, lengths: Lengths) -> Iterator[Run]:
    """A healthy run of another schedule."""
    training, steps = Training(seed, clip=True), lengths.healthy
    told = [training.step(SCHEDULES[schedule](step, steps)) for step in range(steps)]
    yield Run(schedule, str(seed), by_name(told))


def by_name(told: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """The signals of a run, step by step; None where one was not measured."""
    names = dict.fromkeys(name for signals in told for name in signals)
    return {name: [signals.get(name) for signals in told] for name in names}
