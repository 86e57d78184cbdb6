"""A real training run with one of three faults, and a trial of which correction is right.

``python tests/controller/trial_world.py 0 1 2`` prints for each seed and fault which arm was kept, and the
validation loss at the end beside that of the same run without a controller.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed

from midcourse import Controller, Mixture
from midcourse.controller.demo.corpus import Corpus, load_corpus
from midcourse.controller.demo.faults import schedule
from midcourse.controller.demo.model import ByteTransformer, byte_losses
from midcourse.controller.demo.training import BATCH_SIZE, PEAK_RATE, validate
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy

FAULTS = {"rate": "cooler", "source": "without-code", "spike": "nothing"}
"""The fault, and the arm that is right: a rate ten times too high, a source that delivers binaries, both for
good; one batch of noise."""

ONSET, EPOCHS, EPOCH = 300, 6, 100
"""The first step that is wrong; passes and steps in each."""

POLICY = """
version: 1
snapshots: {keep: 8, reach: 320, every: 10}
monitors:
  rise: {type: sustained_rise, signal: loss}
  blowup: {type: divergence, signal: loss}
rules:
  - name: which
    when: rise.bad or blowup.bad or loss.z > 8
    cooldown: 500
    budget: {acts: 1, per: 5000}
    ladder:
      - - trial:
            arms:
              cooler: [scale_lr: {factor: 0.1, hold: 500, ramp: 200}]
              without-code: [reweight: {source: code, to: 0, hold: 500}]
            steps: 80
            judge: loss.value
"""


def run(fault: str, seed: int, corpus: Corpus, folder: Path | None) -> tuple[float, dict[str, Any] | None]:
    """Train with a fault; the validation loss, and what the trial's outcome says where it was controlled."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    set_seed(seed)
    accelerator = Accelerator(cpu=True)
    controller = None
    if folder is not None:
        controller = Controller(
            accelerator, policy=parse_policy(POLICY), run_dir=folder, say=lambda line: None
        )
    mixture = Mixture(
        corpus.train, dict.fromkeys(corpus.train, 1.0), seed=seed, epoch_size=EPOCH * BATCH_SIZE
    )
    model: Any = ByteTransformer()
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE)
    healthy = schedule(1600, 50, None)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: healthy(step) * (10.0 if fault == "rate" and step >= ONSET else 1.0)
    )
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, mixture.loader(BATCH_SIZE), scheduler
    )
    for _ in range(EPOCHS) if controller is None else controller.epochs(EPOCHS):
        for batch in loader:
            step, text = scheduler.scheduler.last_epoch, batch["bytes"]  # which goes back with the data
            chosen = torch.Generator().manual_seed(step)
            if fault == "source" and step >= ONSET:
                broken = (batch["source"] == mixture.names.index("code")).nonzero().flatten().tolist()
                for place in broken:
                    index = int(torch.randint(len(corpus.binaries), (1,), generator=chosen))
                    text[place] = corpus.binaries[index]["bytes"]
            if fault == "spike" and step == ONSET:
                text = torch.randint(0, 256, text.shape, generator=chosen)
            losses = byte_losses(model, text)
            accelerator.backward(losses.mean())
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    accelerator.end_training()
    found = validate(model, corpus.validation)
    told = None
    if folder is not None:
        with JournalReader(folder) as journal:
            told = next((o.details.get("trial") for o in journal.outcomes() if "trial" in o.details), None)
    return sum(found.values()) / len(found), told


def main() -> None:
    torch.set_num_threads(1)
    corpus = load_corpus()
    for seed in map(int, sys.argv[1:]):
        for fault, right in FAULTS.items():
            with tempfile.TemporaryDirectory() as folder:
                loss, told = run(fault, seed, corpus, Path(folder) / "run")
            without, _ = run(fault, seed, corpus, None)
            kept = None if told is None else told["kept"]
            figures: dict[str, Any] = {
                "seed": seed,
                "fault": fault,
                "kept": kept,
                "right": kept == right,
                "validation": round(loss, 3),
                "without_controller": round(without, 3),
            }
            if told is not None:
                figures |= {name: told[name] for name in ("from_step", "ticks", "seconds")}
                figures["noises"] = {name: round(arm["noises"], 2) for name, arm in told["arms"].items()}
                figures["t"] = {name: round(arm["t"], 1) for name, arm in told["arms"].items()}
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
