"""Two processes go back together and end, bit for bit, where two undisturbed ones end; with DDP and FSDP2."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rank_jobs import Ran, loop, same
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
    "dispatched": (22, 8, {"loading": {"dispatch_batches": True, "split_batches": True}, "optimizer": FUSED}),
    "forward-without-backward": (17, 8, {"peeks": True}),
}


def check_replay(plain: Ran, acted: Ran) -> None:
    """One went back once: what it repeated, and all that followed, is what the other did."""
    pairs = zip(acted.ids, [*plain.ids, []], strict=False)
    done = next(n for n, (found, expected) in enumerate(pairs) if found != expected)
    again = len(plain.ids) - (len(acted.ids) - done)
    assert 0 <= again < done
    for name in ("ids", "losses"):
        expected, found = getattr(plain, name), getattr(acted, name)
        assert found == expected[:done] + expected[again:]
    assert same(plain, acted)


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
