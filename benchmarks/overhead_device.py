"""The same on a CUDA device: who makes the host wait, what a step of 10 ms loses, what a snapshot holds up.

Only where there is such a device. Everything takes the device as an argument, so that what does not need one
can be tried on the CPU.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from overhead_loop import WARM_UP, Arm, baseline, controlled, ended, training
from rollback import stack

from midcourse.controller import rng
from midcourse.controller.buffers import Buffers, buffers_for, free_memory
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.ring import Moment, Ring
from midcourse.controller.training_state import SmallState
from midcourse.policies.model import Store
from midcourse.policies.policy import Policy

STEP_MS = 10.0
TURN = 20  # ticks between two waits for the device: those at the edges are not to matter


@dataclass(frozen=True, slots=True)
class Device:
    """Where to measure, and what is done to it there.

    Args:
        device: What torch calls it.
        wait: Let the host wait until the device has done all that it was given.
        debug: Set the debug mode for synchronisations.
        accelerate: What the Accelerator is made with. Batches go to the device without a wait: otherwise it
            is the bare loop that waits.
        side: Of the square matrices whose product is the unit of work.
    """

    device: torch.device
    wait: Callable[[], object]
    debug: Callable[[str], object]
    accelerate: dict[str, Any] = field(default_factory=dict)
    side: int = 2048

    @classmethod
    def cuda(cls) -> Device:
        """The device that an Accelerator takes by itself."""
        return cls(
            torch.device("cuda", torch.cuda.current_device()),
            torch.cuda.synchronize,
            torch.cuda.set_sync_debug_mode,
            {"dataloader_config": DataLoaderConfiguration(non_blocking=True)},
        )

    def seconds(self, part: Callable[[], object]) -> float:
        """Time of the clock until the device has done a part."""
        self.wait()
        began = time.perf_counter()
        part()
        self.wait()
        return time.perf_counter() - began

    def work(self, milliseconds: float) -> Callable[[], None]:
        """Something that keeps the device busy for so long, and the host hardly."""
        factor = torch.randn(self.side, self.side, device=self.device)
        product = torch.empty_like(factor)

        def multiply(times: int) -> None:
            for _ in range(times):
                torch.mm(factor, factor, out=product)

        multiply(3)
        one = min(self.seconds(lambda: multiply(20)) for _ in range(3)) / 20
        times = max(1, round(milliseconds / 1e3 / one))
        return lambda: multiply(times)


def unasked() -> Policy:
    """The baseline policy without the rule that may skip a step: for that, loss and norm are waited for."""
    policy = baseline()
    return replace(policy, rules=tuple(rule for rule in policy.rules if not rule.before_step))


def arms(at: Device, ticks: int, seed: int, runs: Path, work: Callable[[], object]) -> dict[str, Arm]:
    """The bare loop, the baseline policy, and the same without its one rule that has to wait."""
    steered = {"baseline": baseline(), "unasked": unasked()}

    def arm(name: str) -> Arm:
        policy = steered.get(name)
        control = None if policy is None else controlled(policy, runs / name, norms_every=10)
        return training(seed, ticks, control, after_forward=work, **at.accelerate)

    return {name: arm(name) for name in ("bare", *steered)}


def waits(at: Device, arm: Arm, ticks: int) -> float:
    """Synchronisations a tick, as far as torch knows them: not those with an event, say."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        at.debug("warn")
        try:
            for _ in range(ticks):
                next(arm)
        finally:
            at.debug("default")
    return sum("synchroniz" in str(warning.message) for warning in seen) / ticks


def forbidden(at: Device, ticks: int, seed: int, runs: Path) -> dict[str, Any]:
    """A whole loop in which a synchronisation is an error, once it has started.

    One of the loop's own comes out of it. One of ours ends the watching, so that the journal lacks samples.
    """
    control = controlled(unasked(), runs / "forbidden", norms_every=10)
    arm = training(seed, WARM_UP + ticks + 1, control, **at.accelerate)
    for _ in range(WARM_UP):
        next(arm)
    raised = None
    at.debug("error")
    try:
        for _ in range(ticks):
            next(arm)
    except RuntimeError as error:
        raised = str(error).partition("\n")[0]
    finally:
        at.debug("default")
    ended({"forbidden": arm})
    with JournalReader(runs / "forbidden") as reader:
        judged = sum(1 for _ in reader.samples())
    made = WARM_UP + ticks + (raised is None)
    return {"ticks": ticks, "raised": raised, "unwatched": None if raised else made - judged}


def in_turns(at: Device, each: dict[str, Arm], turns: int) -> dict[str, Any]:
    """Milliseconds of a tick, and of the host in it, of the bare loop; what the others take beyond it."""
    whole: dict[str, list[float]] = {name: [] for name in each}
    host: dict[str, list[float]] = {name: [] for name in each}

    def go_on(arm: Arm) -> None:
        for _ in range(TURN):
            next(arm)

    for _ in range(turns):
        for name, arm in each.items():
            began = time.thread_time()
            whole[name].append(1e3 * at.seconds(lambda: go_on(arm)) / TURN)  # noqa: B023
            host[name].append(1e3 * (time.thread_time() - began) / TURN)

    def beyond(found: dict[str, list[float]], name: str) -> float:
        pairs = zip(found[name], found["bare"], strict=True)
        return round(1e3 * median(ours - bare for ours, bare in pairs), 1)

    steered = [name for name in each if name != "bare"]
    return {
        "bare_ms": round(median(whole["bare"]), 3),
        "extra_us": {name: beyond(whole, name) for name in steered},
        "extra_host_us": {name: beyond(host, name) for name in steered},
    }


def stall(
    at: Device, millions: float, batch: int, turns: int, *, beside: bool, steps: int = 10
) -> dict[str, float]:
    """What one snapshot adds to ten steps, copied beside the training or in its course."""
    model: Any = stack(millions).to(at.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(batch, model[0].in_features, device=at.device)
    store = Store.HOST
    in_course = Buffers(at.device, store, lambda: free_memory(at.device, store), None)
    ring = Ring(2, 1000, buffers=buffers_for(at.device, store) if beside else in_course)
    taken = 0

    def state() -> list[torch.Tensor]:
        kept = [t for s in optimizer.state.values() for t in s.values() if t.dim()]
        return [*(p.detach() for p in model.parameters()), *kept]

    def go_on(snapshot: bool) -> None:
        nonlocal taken
        if snapshot:
            taken += 1
            moment = Moment(taken, taken, 0, None, rng.capture())
            ring.take(state(), SmallState([], {}, {}, [], 0), moment, lambda: ())
        for _ in range(steps):
            model(x).square().mean().backward()
            ring.settle()
            optimizer.step()
            optimizer.zero_grad()

    go_on(False)
    ring.reserve(state())
    go_on(True)
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(turns):
        for snapshot in found:
            found[snapshot].append(1e3 * at.seconds(lambda: go_on(snapshot)))  # noqa: B023
    return {
        "bytes": sum(t.numel() * t.element_size() for t in state()),
        "step_ms": round(median(found[False]) / steps, 3),
        "stall_ms": round(median(a - b for a, b in zip(found[True], found[False], strict=True)), 3),
    }


def on_device(
    at: Device, seed: int, runs: Path, *, ticks: int = 400, turns: int = 20, millions: float = 100.0
) -> dict[str, Any]:
    """All of it, in a minute or two."""
    AcceleratorState._reset_state(True)  # who comes first in a process says where all others train
    GradientState._reset_state()
    error = forbidden(at, ticks, seed, runs)
    each = arms(at, WARM_UP + ticks + turns * TURN, seed, runs, at.work(STEP_MS))
    for arm in each.values():
        for _ in range(WARM_UP):
            next(arm)
    told = {
        "name": torch.cuda.get_device_name(at.device) if at.device.type == "cuda" else at.device.type,
        "step_ms": STEP_MS,
        "forbidden": error,
        "waits_a_tick": {name: waits(at, arm, ticks) for name, arm in each.items()},
        **in_turns(at, each, turns),
    }
    ended(each)
    batch = 4096 if at.device.type == "cuda" else 2
    told["snapshot"] = {
        name: stall(at, millions, batch, max(2, turns // 4), beside=beside)
        for name, beside in (("beside", True), ("in_course", False))
    }
    return told
