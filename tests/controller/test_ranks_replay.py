"""Two processes go back together and end, bit for bit, where two undisturbed ones end; with DDP and FSDP2."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rank_jobs import check_replay, loop, same
from small_loop import rollback_policy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, OneCycleLR
from two_ranks import Ranks

from midcourse.policies.types import Status


def decaying(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.98**step)


MOMENTUM = partial(SGD, lr=1e-2, momentum=0.9)
FUSED = partial(AdamW, lr=1e-2, fused=True)
# Accelerate steps a scheduler once for each process.
ONE_CYCLE = partial(OneCycleLR, max_lr=1e-2, total_steps=2 * 100)
RESTARTS = partial(CosineAnnealingWarmRestarts, T_0=17)

# Ten updates a pass, four with accumulation; decided at the trigger's tick, done by both after the next one.
CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "mid-epoch": (17, 2, {}),
    "across-an-epoch-lambda": (22, 8, {"schedule": decaying}),
    "to-the-first-step": (7, 6, {}),
    "last-step-of-a-pass": (19, 4, {"optimizer": FUSED}),
    "seedable-one-cycle-momentum": (22, 8, {"seedable": True, "schedule": ONE_CYCLE, "optimizer": MOMENTUM}),
    "mixture-restarts-fused": (22, 8, {"mixture": True, "schedule": RESTARTS, "optimizer": FUSED}),
    "mixture-accumulation-momentum": (
        6,
        3,
        {"mixture": True, "accumulation": 3, "optimizer": MOMENTUM, "schedule": decaying},
    ),
    "accumulation-restarts": (6, 2, {"accumulation": 3, "schedule": RESTARTS}),
    "uneven-accumulation-one-cycle": (
        10,
        5,
        {"examples": 149, "accumulation": 3, "schedule": ONE_CYCLE, "epochs": 4},
    ),
    "uneven-seedable-by-epoch": (
        23,
        9,
        {"examples": 149, "seedable": True, "schedule": decaying, "per_epoch": True},
    ),
    "uneven-split-batches": (22, 4, {"examples": 149, "loading": {"split_batches": True}}),
    "dispatched": (22, 8, {"dispatched": True, "loading": {"split_batches": True}, "optimizer": FUSED}),
    "forward-without-backward": (17, 8, {"peeks": True}),
    "bfloat16": (22, 8, {"precision": "bf16", "seedable": True}),
    "compiled": (17, 8, {"compiled": True, "mixture": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_a_replay_is_bit_for_bit(ranks: Ranks, tmp_path: Path, case: str, sharded: bool) -> None:
    tick, steps, how = CASES[case]
    plain = ranks.run(loop, sharded=sharded, **how)
    policy = rollback_policy("replay", f"{{steps: {steps}}}")
    acted = ranks.run(loop, tmp_path, policy, triggers={tick: 1.0}, sharded=sharded, **how)
    assert [o.status for o in acted[0].outcomes] == [Status.APPLIED]
    assert acted[0].outcomes[0].details["rollback"]["data"] == "replay"
    for a, b in zip(plain, acted, strict=True):
        check_replay(a, b)


SPIKE = """
version: 1
snapshots: {keep: 6, reach: 160, every: 2}
rules:
  - name: back
    when: loss.value > 1000
    ladder:
      - [rollback: {to: before_onset, data: replay}]
"""


class Spoils:
    """Blows up one micro-batch of this tick, once: a fault that is not the data's."""

    def __init__(self, tick: int) -> None:
        self._tick: int | None = tick

    def __call__(self, tick: int, loss: Any) -> Any:
        if tick != self._tick:
            return loss
        self._tick = None
        return loss * 1e5


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_what_goes_wrong_within_an_accumulation_window_is_undone_at_a_window_s_end(
    ranks: Ranks, tmp_path: Path, sharded: bool
) -> None:
    how: dict[str, Any] = {"accumulation": 3, "epochs": 3, "sharded": sharded}
    plain = ranks.run(loop, **how)
    acted = ranks.run(loop, tmp_path, SPIKE, spoil=Spoils(6), **how)
    assert [(o.status, o.tick) for o in acted[0].outcomes] == [(Status.APPLIED, 7)]
    assert acted[0].outcomes[0].details["rollback"]["target_tick"] == 4
    for a, b in zip(plain, acted, strict=True):
        # Seven whole windows, the second and the sixth of which end a pass of ten batches; back to the fifth.
        windows = [a.ticks.count(n) for n in range(8)]
        done, again = b.ticks.index(7) + 1, a.ticks.index(4) + 1
        assert sum(windows[:7]) + 1 == done
        assert b.ids == a.ids[:done] + a.ids[again:]
        assert b.losses[done:] == a.losses[again:]
        assert same(a, b)
