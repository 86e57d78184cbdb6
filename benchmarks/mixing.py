"""Does a regulated mix help the worst source? The demo's run in equal shares, and in those of each law.

::

    python benchmarks/mixing.py                  a table
    python benchmarks/mixing.py --json [OUT]     the same for programs

The demo's transformer trains on its three sources, nothing is wrong, with the same seeds. Laws set the
shares every 20 ticks, between 0.05 and 0.7. All run under the shipped baseline policy.
``excess_loss`` takes what the run in equal shares ended with for its reference: it has had twice the compute.

- **Worst** is the validation loss, in nats a byte, of the source that fares worst at the end; **mean** that
  of all three.
- **Alarms** are the episodes of any monitor but ``spike``, which alarms in healthy runs too; **acts** the
  decisions. Nothing is wrong in these runs, so both should be 0.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from accelerate import Accelerator
from common import add_json_argument, columns, give, machine

from midcourse import Controller, load_policy
from midcourse.controller.demo.corpus import Corpus, load_corpus
from midcourse.controller.demo.training import FULL, train
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy

EQUAL = "equal shares"
LAWS: Mapping[str, str] = {
    EQUAL: "",
    "group_dro": "law: group_dro",
    "online_mixing": "law: online_mixing",
    "excess_loss": "law: excess_loss, reference: {reference}",
}
MIX = """
regulators:
  mix: {{{law}, signal: "loss/source=*", every: 20, floor: 0.05, ceiling: 0.7, rate: 0.1}}
"""
BAD = ("alarm", "nonfinite")


def run(arm: str, seed: int, corpus: Corpus, steps: int, folder: Path) -> dict[str, Any]:
    """One run: how it ended, and what was seen and done on the way."""
    law = LAWS[arm].format(reference=folder / f"{EQUAL}-{seed}")
    policy = parse_policy(load_policy("baseline").text + (MIX.format(law=law) if law else ""))
    own = folder / f"{arm}-{seed}"

    def control(accelerator: Accelerator) -> Controller:
        return Controller(accelerator, policy, run_dir=own, say=lambda line: None)

    plan = replace(FULL.without_faults(), steps_per_epoch=steps // FULL.epochs)
    ended = train(plan, corpus, seed, lambda progress: None, control)
    with JournalReader(own) as journal:
        moves = [event.detail["values"] for event in journal.events() if event.kind == "regulated"]
        alarms = sum(
            change.reading.health.value in BAD
            and change.monitor != "spike"
            and (change.before is None or change.before.value not in BAD)
            for change in journal.transitions()
        )
        acts = len(journal.decisions())
    shares = moves[-1] if moves else {}
    return {
        "arm": arm,
        "seed": seed,
        "validation": ended.validation,
        "worst": max(ended.validation.values()),
        "mean": ended.loss,
        "moves": len(moves),
        "last_shares": {name.removeprefix("weight/"): share for name, share in shares.items()},
        "alarms": alarms,
        "acts": acts,
    }


def measure(seeds: Sequence[int], steps: int, told: Callable[[str], object]) -> list[dict[str, Any]]:
    """All arms with all seeds, those of one seed after one another."""
    torch.set_num_threads(1)
    logging.getLogger("midcourse").setLevel(logging.ERROR)
    corpus = load_corpus()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for arm in LAWS:
                found.append(run(arm, seed, corpus, steps, Path(folder)))
                told(f"{arm}, seed {seed}: {found[-1]['worst']:.4f}")
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Means over the seeds, and how far each seed's worst lies from that in equal shares."""
    rows = [["mix", "worst", "against equal", "mean", "last shares", "moves", "alarms", "acts"]]
    equal = {each["seed"]: each["worst"] for each in found if each["arm"] == EQUAL}
    for arm in LAWS:
        own = [each for each in found if each["arm"] == arm]
        gains = ", ".join(f"{each['worst'] - equal[each['seed']]:+.3f}" for each in own)
        shares = own[0]["last_shares"]
        rows.append(
            [
                arm,
                f"{mean(each['worst'] for each in own):.3f}",
                "" if arm == EQUAL else gains,
                f"{mean(each['mean'] for each in own):.3f}",
                " ".join(f"{name} {share:.2f}" for name, share in shares.items()),
                *(str(sum(each[key] for each in own)) for key in ("moves", "alarms", "acts")),
            ]
        )
    return columns(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--steps", type=int, default=FULL.steps, help="of each run (default: the demo's)")
    add_json_argument(parser)
    wanted = parser.parse_args()
    found = measure(range(wanted.seeds), wanted.steps, lambda line: None)
    give({"machine": machine(), "steps": wanted.steps, "runs": found}, table(found), wanted.json)


if __name__ == "__main__":
    main()
