"""The arms of the recovery benchmark that have no Midcourse in them: no control, and what others do.

Detectors are those of ``peers.py``, from their formulas with their own constants; ``zclip`` is the package of
that name where it is installed. What several of them leave to their user, the restart, is supplied here as a
capable user would: a checkpoint every 50 steps, at most five restarts, then the run goes on unwatched. In
runs of 800 steps PaLM's recipe is at the lower end of its range: 100 steps back, 200 batches left out.

An arm stands in the loop at four places: it counts the passes, hears each example's loss, says whether the
optimizer takes its step, and whether the pass is broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import isfinite
from typing import Any, Protocol

import torch
from peers import KillLossSpike, Peer, SkipStep, SpikeDetection, ZClip
from recovery_worlds import STEPS
from torch import Tensor, nn

from midcourse import Mixture

CLIP_NORM = 1.0
CHECKPOINT_EVERY = 50
RESTARTS = 5
PLATEAU_EVERY = 10  # steps whose mean loss is one value for ReduceLROnPlateau: its "epoch"
PALM_BACK, PALM_LEAVES_OUT = 100, 200
ZCLIP_PACKAGE = find_spec("zclip") is not None


@dataclass(slots=True)
class Parts:
    """What a prepared loop consists of."""

    model: nn.Module
    optimizer: Any
    scheduler: Any
    mixture: Mixture
    batch_size: int


@dataclass(slots=True)
class Told:
    """What an arm did: ticks of its acts and alarms, in words, updates given up, whether it ended the run."""

    acts: list[int] = field(default_factory=list)
    alarms: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    lost: int = 0
    stopped: bool = False


class Arm(Protocol):
    """What the loop asks."""

    def prepared(self, parts: Parts) -> None:
        """The loop's parts are there."""
        ...

    def epochs(self, count: int) -> Iterator[int]:
        """Count the passes."""
        ...

    def log_examples(self, losses: Tensor, groups: Tensor) -> None:
        """Hear the losses [B] of the batch's examples, and their sources [B]."""
        ...

    def takes(self, loss: Tensor) -> bool:
        """Whether the optimizer takes its step, asked after ``backward``."""
        ...

    def breaks(self) -> bool:
        """Whether the pass ends here, asked after the step."""
        ...

    def told(self) -> Told:
        """What was done, after the run."""
        ...


class Uncontrolled:
    """No control; and what all of the others here are built on."""

    def __init__(self) -> None:
        self.parts: Parts
        self.step = self.tick = self.position = 0
        self.record = Told()

    def prepared(self, parts: Parts) -> None:
        """The loop's parts are there."""
        self.parts = parts

    def epochs(self, count: int) -> Iterator[int]:
        """Passes until all steps are made, each from the batch that comes next."""
        number = 0
        while self.step < STEPS:
            self.parts.mixture.sampler.seek(self.position * self.parts.batch_size)
            yield number
            number += 1

    def log_examples(self, losses: Tensor, groups: Tensor) -> None:
        """Nobody listens."""

    def takes(self, loss: Tensor) -> bool:
        """Always, in this one."""
        return True

    def breaks(self) -> bool:
        """When all steps are made."""
        self.step += 1
        self.tick += 1
        self.position += 1
        return self.step >= STEPS

    def told(self) -> Told:
        """What was done."""
        return self.record

    def act(self, words: str) -> None:
        """Note an act on the update that is being made."""
        self.record.acts.append(self.tick + 1)
        self.record.words.append(f"{self.tick + 1} {words}")

    def gradients(self) -> list[Tensor]:
        """Those of all parameters that have one."""
        return [p.grad for p in self.parts.model.parameters() if p.grad is not None]

    def norm(self) -> float:
        """The gradient's norm, before any clipping."""
        return float(torch.nn.utils.get_total_norm(self.gradients()))


class Clip(Uncontrolled):
    """Every gradient is clipped to a norm of 1. That is no act: it is done all the time."""

    def takes(self, loss: Tensor) -> bool:
        """Clip, and go on."""
        torch.nn.utils.clip_grad_norm_(self.parts.model.parameters(), CLIP_NORM)
        return True


class ZClipped(Uncontrolled):
    """ZClip: the package's own class, or its formula with the package's limit of 1 on all norms."""

    def prepared(self, parts: Parts) -> None:
        """Make it."""
        super().prepared(parts)
        self._clip = self._package() if ZCLIP_PACKAGE else self._formula()

    def takes(self, loss: Tensor) -> bool:
        """Clip, and go on."""
        self._clip()
        return True

    def _package(self) -> Callable[[], object]:
        from zclip import ZClip as Package

        clip = Package()
        return lambda: clip.step(self.parts.model)

    def _formula(self) -> Callable[[], object]:
        rule = ZClip()

        def clip() -> None:
            rule.alarms(0.0, self.norm())
            torch.nn.utils.clip_grad_norm_(self.parts.model.parameters(), min(CLIP_NORM, rule.taken))

        return clip


class Skips(Uncontrolled):
    """OLMo-core's SkipStep: no update where its formula raises its hand."""

    def __init__(self) -> None:
        super().__init__()
        self._rule = SkipStep()

    def takes(self, loss: Tensor) -> bool:
        """Unless loss or gradient norm stands out."""
        if self._rule.alarms(loss.item(), self.norm()):
            self.act("skip")
            self.record.lost += 1
            return False
        return True


class Plateau(Uncontrolled):
    """torch's ReduceLROnPlateau with its defaults, on the mean loss of 10 steps; over the schedule."""

    def __init__(self) -> None:
        super().__init__()
        self._factor = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        self._rule = torch.optim.lr_scheduler.ReduceLROnPlateau(self._factor)
        self._seen: list[float] = []

    def takes(self, loss: Tensor) -> bool:
        """Lower the rate where the loss stands still."""
        self._seen.append(loss.item())
        if len(self._seen) == PLATEAU_EVERY:
            before = self._factor.param_groups[0]["lr"]
            self._rule.step(sum(self._seen) / PLATEAU_EVERY)
            self._seen.clear()
            if (after := self._factor.param_groups[0]["lr"]) < before:
                self.act(f"rate x {after:g}")
                schedule = self.parts.scheduler.scheduler
                schedule.base_lrs = [rate * after / before for rate in schedule.base_lrs]
        return True


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    step: int
    position: int
    states: list[dict[str, Any]]


class Restarts(Uncontrolled):
    """A detector ends the run, and it is started again from a checkpoint.

    Args:
        make: The detector, new in every process life.
        back: The checkpoint is at least so many steps old.
        goes_on: The batch to go on with, from the checkpoint's and the one at which the run ended.
        leaves_out: The batch that raised the alarm gives no update when it comes again.
        norms: The detector is given the gradient's norm too.
    """

    def __init__(
        self,
        make: Callable[[], Peer],
        back: int,
        goes_on: Callable[[int, int], int],
        leaves_out: bool = False,
    ) -> None:
        super().__init__()
        self._make, self._rule = make, make()
        self._back, self._goes_on, self._leaves_out = back, goes_on, leaves_out
        self._left_out: set[int] = set()
        self._kept: list[_Checkpoint] = []
        self._restarts = 0
        self._ends = False

    def prepared(self, parts: Parts) -> None:
        """The first checkpoint."""
        super().prepared(parts)
        self._keep()

    def takes(self, loss: Tensor) -> bool:
        """Unless the run ends here, or the batch was written down."""
        if self.position in self._left_out:
            self.record.lost += 1
            return False
        watched = self._restarts < RESTARTS
        self._ends = self._rule.alarms(loss.item(), None) and watched
        return not self._ends

    def breaks(self) -> bool:
        """Where all steps are made, or the run is started again."""
        if self._ends:
            self._restart()
            return True
        done = super().breaks()
        if self.step % CHECKPOINT_EVERY == 0:
            self._keep()
        return done

    def _stateful(self) -> tuple[Any, ...]:
        return self.parts.model, self.parts.optimizer, self.parts.scheduler

    def _keep(self) -> None:
        states = deepcopy([each.state_dict() for each in self._stateful()])
        self._kept.append(_Checkpoint(self.step, self.position, states))

    def _restart(self) -> None:
        self._ends = False
        self._restarts += 1
        while len(self._kept) > 1 and self._kept[-1].step > self.step - self._back:
            self._kept.pop()
        target = self._kept[-1]
        self.act(f"restart from step {target.step}")
        if self._leaves_out:
            self._left_out.add(self.position)
        self.record.lost += self.step - target.step + 1
        self.tick += 1
        for each, state in zip(self._stateful(), deepcopy(target.states), strict=True):
            each.load_state_dict(state)
        self.step, self.position = target.step, self._goes_on(target.position, self.position)
        self._rule = self._make()


class _SixDeviations:
    """A loss six deviations above its mean, or not finite, 3 times in a row: what nobody overlooks."""

    def __init__(self) -> None:
        self._rule = SkipStep()
        self._high = 0

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether somebody would step in."""
        high = self._rule.alarms(loss, None) or not isfinite(loss)
        self._high = self._high + 1 if high else 0
        return self._high >= 3


def _lightning() -> Arm:
    return Restarts(SpikeDetection, 0, lambda kept, ended: kept, leaves_out=True)


def _kill() -> Arm:
    return Restarts(lambda: KillLossSpike(STEPS), 5, lambda kept, ended: ended + 1)


def _palm() -> Arm:
    return Restarts(_SixDeviations, PALM_BACK, lambda kept, ended: kept + PALM_LEAVES_OUT)


NONE = "none"
PEERS: Mapping[str, Callable[[], Arm]] = {
    NONE: Uncontrolled,
    "clip": Clip,
    "skipstep": Skips,
    "zclip": ZClipped,
    "lightning": _lightning,
    "kill": _kill,
    "palm": _palm,
    "plateau": Plateau,
}
"""Each arm by its name in the table."""
