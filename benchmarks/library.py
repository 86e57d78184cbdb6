"""Does each shipped policy do what it is for, and nothing in a healthy run? Small real runs under each.

::

    python benchmarks/library.py                        a table
    python benchmarks/library.py --policy NAME          only this policy; repeatable
    python benchmarks/library.py --json [OUT]           the same for programs

The demo's transformer trains on its three sources. Each policy has a world in which nothing is wrong and one
with the fault that it is made for; both run without a controller and under the policy, from the same seeds.

- **Loss** is the validation loss at the end, in nats a byte: the mean of the sources that are meant, or the
  worst of them for ``group-fairness``. For ``fine-tuning`` it is the loss on held-out text. **Plain** is the
  same run without a controller.
- **Acts** are the applied acts that change a run: skipping a step, notifying and writing a checkpoint are
  none. In a healthy world there should be none. What a regulator moves is no act.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from common import add_json_argument, columns, give, machine
from torch import Tensor
from torch.utils.data import Subset

from midcourse import Controller, Mixture, load_policy
from midcourse.controller.demo.corpus import Corpus, load_corpus
from midcourse.controller.demo.faults import schedule
from midcourse.controller.demo.model import ByteTransformer, byte_losses
from midcourse.controller.demo.training import BATCH_SIZE, PEAK_RATE, validate
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.phases import corrects
from midcourse.policies.types import Disposition, Status

PASS, WARM_UP = 100, 50
SOURCES = ("code", "docs", "tables")
TAUGHT = 400
"""Steps of the training before a fine-tuning, which has never seen code."""


def _nothing(step: int, tick: int) -> float:
    return 0.0


def _full(step: int) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class World:
    """A run and what is wrong with it.

    ``binaries`` and ``noise`` say which share of the examples of code is replaced by machine code, or of
    their bytes by any; they and ``no_number``, where the loss is NaN, go by the training step, which a
    rollback rewinds, and by the tick, which it does not. ``rate`` multiplies the schedule. ``fine`` trains
    on from a model that was taught without code, on so many windows of it (0: all), and evaluates.
    """

    name: str
    policy: str
    healthy: bool
    passes: int = 10
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    binaries: Callable[[int, int], float] = _nothing
    noise: Callable[[int, int], float] = _nothing
    no_number: tuple[int, ...] = ()
    rate: Callable[[int], float] = _full
    fine: int | None = None
    meant: tuple[str, ...] = SOURCES


def _between(first: int, last: int, share: float = 1.0) -> Callable[[int, int], float]:
    """By ticks: what storage delivers for a while, whoever reads it."""
    return lambda step, tick: share if first <= tick < last else 0.0


def _from(first: int, share: float) -> Callable[[int, int], float]:
    """By steps: what lies in the data for good."""
    return lambda step, tick: share if step >= first else 0.0


def _rate(first: int, factor: float) -> Callable[[int], float]:
    return lambda step: factor if step >= first else 1.0


WORLDS = (
    World("healthy", "observe-only", True),
    World("rate x 30", "observe-only", False, rate=_rate(600, 30.0)),
    World("healthy", "no-snapshots", True),
    World("rate x 30", "no-snapshots", False, rate=_rate(600, 30.0)),
    World("healthy", "noisy-sources", True),
    World("half of code's bytes are noise", "noisy-sources", False, noise=_from(400, 0.5), passes=12),
    World("a tenth of code's bytes are noise", "noisy-sources", False, noise=_from(400, 0.1), passes=12),
    World("noise for 150 steps", "noisy-sources", False, noise=_between(400, 550, 0.5), passes=12),
    World("healthy, even groups", "group-fairness", True),
    World("a group of 4 %", "group-fairness", False, weights=(12.0, 12.0, 1.0), passes=12),
    World("healthy", "pre-training", True, passes=16),
    World(
        "binaries, then rate x 30", "pre-training", False, passes=20,
        binaries=_between(600, 720), rate=_rate(1400, 30.0),
    ),
    World("healthy, all of the text", "fine-tuning", True, passes=6, fine=0),
    World("NaN batches", "fine-tuning", False, passes=4, fine=0, no_number=(160, 161)),
    World("few examples", "fine-tuning", False, passes=8, fine=400),
)  # fmt: skip


def run(world: World, seed: int, controlled: bool, folder: Path) -> dict[str, Any]:
    """One run: how it ended, and what was done on the way."""
    corpus = _corpus()
    taught = None if world.fine is None else _taught(seed)
    set_seed(seed)
    accelerator = Accelerator(cpu=True)
    own = folder / f"{world.policy}-{world.name}-{seed}"
    controller = None
    if controlled:
        controller = Controller(accelerator, load_policy(world.policy), run_dir=own, say=lambda line: None)
    ended = _train(world, seed, corpus, accelerator, controller, taught)
    told = _told(own) if controlled else {}
    return {**ended, **told}


@cache
def _corpus() -> Corpus:
    return load_corpus()


@cache
def _taught(seed: int) -> Mapping[str, Tensor]:
    """A model that knows all but code."""
    set_seed(seed)
    world = World("taught", "", True, passes=TAUGHT // PASS, weights=(0.0, 1.0, 1.0))
    accelerator = Accelerator(cpu=True)
    model: Mapping[str, Tensor] = _train(world, seed, _corpus(), accelerator, None, None)["weights"]
    return model


def _train(
    world: World,
    seed: int,
    corpus: Corpus,
    accelerator: Accelerator,
    controller: Controller | None,
    taught: Mapping[str, Tensor] | None,
) -> dict[str, Any]:
    texts: Mapping[str, Any] = corpus.train
    weights = dict(zip(SOURCES, world.weights, strict=True))
    if world.fine is not None:
        code = corpus.train["code"]
        texts = {"code": Subset(code, range(0, len(code), len(code) // world.fine)) if world.fine else code}
        weights = {"code": 1.0}
    mixture = Mixture(texts, weights, seed=seed, epoch_size=PASS * BATCH_SIZE)
    model: Any = ByteTransformer()
    if taught is not None:
        model.load_state_dict(taught)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE / (1 if taught is None else 3))
    planned = schedule(world.passes * PASS, WARM_UP, None)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: planned(s) * world.rate(s))
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, mixture.loader(BATCH_SIZE), scheduler
    )
    held_out = corpus.validation["code"][::4]
    tick = 0
    for _ in range(world.passes) if controller is None else controller.epochs(world.passes):
        for batch in loader:
            step = scheduler.scheduler.last_epoch
            _spoil(world, corpus, batch, mixture, step, tick)
            losses = byte_losses(model, batch["bytes"])
            if controller is not None and world.fine is None:
                controller.log_examples(losses, batch["source"])
            if controller is not None and world.fine is not None and step % 10 == 0:
                with torch.no_grad():
                    controller.log(**{"eval/loss": byte_losses(model, held_out).mean().item()})
            accelerator.backward(losses.mean() * (float("nan") if step in world.no_number else 1.0))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            tick += 1
    stopped = controller is not None and controller.stopped is not None
    accelerator.end_training()
    found = validate(model, corpus.validation)
    meant = [found[name] for name in (world.meant if world.fine is None else ("code",))]
    loss = max(meant) if world.policy == "group-fairness" else mean(meant)
    whole = {name: tensor.clone() for name, tensor in accelerator.unwrap_model(model).state_dict().items()}
    accelerator.free_memory()
    return {"loss": loss, "validation": found, "ticks": tick, "stopped": stopped, "weights": whole}


def _spoil(world: World, corpus: Corpus, batch: Any, mixture: Mixture, step: int, tick: int) -> None:
    binaries, noise = world.binaries(step, tick), world.noise(step, tick)
    if not binaries and not noise:
        return
    chosen = torch.Generator().manual_seed(step)
    for place in (batch["source"] == mixture.names.index("code")).nonzero().flatten().tolist():
        text = batch["bytes"][place]
        if binaries:
            text.copy_(
                corpus.binaries[int(torch.randint(len(corpus.binaries), (1,), generator=chosen))]["bytes"]
            )
        bad = torch.rand(text.shape, generator=chosen) < noise
        text[bad] = torch.randint(0, 256, text.shape, generator=chosen)[bad]


def _told(folder: Path) -> dict[str, Any]:
    """What the journal says was done, or would have been."""
    with JournalReader(folder) as journal:
        decisions = {decision.id: decision for decision in journal.decisions()}
        applied = [o.decision_id for o in journal.outcomes() if o.status is Status.APPLIED]
        verdicts = {verdict.decision_id: verdict.result.value for verdict in journal.verdicts()}
        moves = [event.detail["values"] for event in journal.events() if event.kind == "regulated"]
    acts = [
        {
            "tick": decision.tick,
            "rule": decision.rule + (f"[{decision.instance}]" if decision.instance else ""),
            "rung": decision.rung,
            "actions": [action.name for action in decision.actions],
            "disposition": decision.disposition.value,
            "applied": decision.id in applied,
            "verdict": verdicts.get(decision.id),
            "changes": decision.id in applied and (
                corrects(decision.actions) or any(action.name == "stop" for action in decision.actions)
            ),
        }
        for decision in decisions.values()
        if decision.disposition is not Disposition.SUPPRESSED
    ]  # fmt: skip
    return {"decisions": acts, "shares": moves[-1] if moves else {}}


def measure(
    worlds: Sequence[World], seeds: Sequence[int], told: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Each world with each seed, without a controller and with its policy."""
    torch.set_num_threads(1)
    logging.getLogger("midcourse").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            for seed in seeds:
                plain = run(world, seed, False, Path(folder))
                under = run(world, seed, True, Path(folder))
                same = all(
                    torch.equal(under["weights"][name], plain["weights"][name]) for name in plain["weights"]
                )
                rows.append(
                    {
                        "policy": world.policy,
                        "world": world.name,
                        "healthy": world.healthy,
                        "seed": seed,
                        "plain": plain["loss"] if isfinite(plain["loss"]) else None,
                        "loss": under["loss"] if isfinite(under["loss"]) else None,
                        "plain_validation": _finite(plain["validation"]),
                        "validation": _finite(under["validation"]),
                        "bitwise": same,
                        "stopped": under["stopped"],
                        "decisions": under["decisions"],
                        "shares": under["shares"],
                    }
                )
                told(str(rows[-1]))
    return rows


def _finite(losses: Mapping[str, float]) -> dict[str, float | None]:
    return {name: loss if isfinite(loss) else None for name, loss in losses.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a run."""
    lines = [["policy", "world", "seed", "plain", "loss", "acts", "what was done"]]
    for row in rows:
        changed = [each for each in row["decisions"] if each["changes"]]
        said = ", ".join(
            f"{each['tick']} {each['rule']} {each['rung']}"
            for each in row["decisions"]
            if each["changes"] or each["disposition"] == "observe"
        )
        both = ["no number" if row[key] is None else f"{row[key]:.3f}" for key in ("plain", "loss")]
        lines.append([row["policy"], row["world"], str(row["seed"]), *both, str(len(changed)), said])
    return columns(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = list(dict.fromkeys(world.policy for world in WORLDS))
    parser.add_argument("--policy", action="append", choices=names, metavar="NAME", help="only this one")
    parser.add_argument("--seeds", type=int, default=2, help="how many (default: 2)")
    parser.add_argument(
        "--passes", type=int, help="of each run, of 100 steps (default: as each world has it)"
    )
    add_json_argument(parser)
    wanted = parser.parse_args()
    worlds = [world for world in WORLDS if world.policy in (wanted.policy or names)]
    if wanted.passes:
        worlds = [replace(world, passes=wanted.passes) for world in worlds]
    rows = measure(worlds, range(wanted.seeds), lambda line: None)
    give({"benchmark": "library", "machine": machine(), "runs": rows}, table(rows), wanted.json)


if __name__ == "__main__":
    main()
