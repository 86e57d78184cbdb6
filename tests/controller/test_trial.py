"""A trial is exact: every arm is the run that took it alone, and nothing is the run that tried nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain, product, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from small_loop import Trace, dataset, network, pull_policy, train
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from midcourse import Controller
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Outcome, Status

torch.set_num_threads(1)

STEPS = 32
ARMS = {
    "cooler": "scale_lr: {factor: 0.1, hold: 20, ramp: 30}",
    "anew": "reset_moments: {}",
    "without-b": "reweight: {source: b, to: 0, hold: 12}",
}
POLICY = """
version: 1
signals: [trigger, score]
snapshots: {{keep: 6, reach: 160, every: 5}}
monitors:
  rise: {{type: sustained_rise, signal: loss}}
rules:
  - name: which
    when: trigger.value > 0.5
    ladder:
      - [trial: {{arms: {{{arms}}}, steps: 32, judge: score.value, from: {origin}}}]
      - [notify: {{message: next}}]
"""


def trial_policy(arms: list[str], origin: str = "before_onset") -> str:
    """A policy that tries these arms when the loop logs ``trigger``, and goes by ``score``."""
    written = ", ".join(f"{name}: [{ARMS[name]}]" for name in arms)
    return POLICY.format(arms=written, origin=origin)


def scores(arms: list[str], winner: str, began: int) -> dict[int, float]:
    """By tick: the winner's are lower than all others."""
    first = began + ["nothing", *arms].index(winner) * STEPS
    return dict.fromkeys(range(first + 1, first + STEPS + 1), -1.0)


def outcomes(folder: Path) -> list[Outcome]:
    with JournalReader(folder) as reader:
        return reader.outcomes()


def evaluation() -> None:
    """Epoch-end code that draws random numbers."""
    torch.rand(3)


LOOPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one-cycle": {"schedule": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=200), "seedable": True},
    "per-epoch": {
        "schedule": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
        "per_epoch": True,
        "evaluate": evaluation,
    },
    "accumulating": {"accumulation": 2, "epochs": 8},
    "mixture": {"mixture": True},
    "mixture with workers": {"mixture": True, "workers": 2},
}
TRIGGER, SNAPSHOT = 17, 15

Reference = Callable[..., Trace]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The run in which an arm's action, and no trial, was taken at a tick; None: the undisturbed run."""

    @cache
    def made(loop: str, arm: str | None, tick: int) -> Trace:
        kwargs = {"epochs": 4, **LOOPS[loop]}
        if arm in (None, "nothing"):
            return train(**kwargs)
        folder = tmp_path_factory.mktemp("reference")
        return train(folder, pull_policy(ARMS[arm]), triggers={tick: 1.0}, **kwargs)

    return made


def at(trace: Trace, tick: int) -> int:
    """How many batches were trained on through a tick."""
    return trace.ticks.index(tick) + 1


ORIGINS, WINNERS = ("before_onset", "here"), ("nothing", *ARMS)
FAST = {
    ("mixture", "nothing", "before_onset"),
    ("mixture", "without-b", "here"),
    ("per-epoch", "cooler", "before_onset"),
}


@pytest.mark.parametrize(
    ("loop", "winner", "origin"),
    [
        pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow])
        for case in product(LOOPS, WINNERS, ORIGINS)
        if case[1] != "without-b" or "mixture" in case[0]
    ],
)
def test_every_arm_is_the_run_that_took_it_alone(
    tmp_path: Path, reference: Reference, loop: str, winner: str, origin: str
) -> None:
    arms = [arm for arm in ARMS if arm != "without-b" or "mixture" in loop]
    kwargs = {"epochs": 4, **LOOPS[loop]}
    began = TRIGGER if origin == "here" else SNAPSHOT
    tried = train(
        tmp_path,
        trial_policy(arms, origin),
        triggers={TRIGGER: 1.0},
        also={"score": scores(arms, winner, TRIGGER)},
        **kwargs,
    )
    [outcome, *_] = outcomes(tmp_path)
    assert outcome.status is Status.APPLIED, outcome.reason
    told = outcome.details["trial"]
    assert (told["kept"], told["from_tick"]) == (winner, began)
    assert told["ticks"] == told["ticks_at_most"] == (len(arms) + 1) * STEPS
    plain = reference(loop, None, 0)
    for part in ("losses", "ids"):
        expected = getattr(plain, part)[: at(plain, TRIGGER)]
        for arm in ("nothing", *arms):
            alone = reference(loop, arm, began)
            expected = expected + getattr(alone, part)[at(alone, began) : at(alone, began + STEPS)]
        kept = reference(loop, winner, began)
        goes_on = TRIGGER if winner == "nothing" else began + STEPS
        expected = expected + getattr(kept, part)[at(kept, goes_on) :]
        assert getattr(tried, part) == expected
    assert tried.matches(reference(loop, winner, began))


def by_steps(folder: Path, policy: str, triggers: dict[int, float], marks: dict[int, float]) -> list[float]:
    """A loop of 64 steps over a loader of 20 batches; returns its losses, and the parameters last."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)
    model: Any = network()
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader: Any = DataLoader(dataset(), batch_size=8, shuffle=True)
    accelerator = Accelerator(cpu=True)
    controller = Controller(accelerator, policy=parse_policy(policy), run_dir=folder, say=lambda line: None)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses: list[float] = []
    for _, (x, y, _) in zip(controller.steps(64), chain.from_iterable(repeat(loader)), strict=False):
        loss = ((model(x) - y) ** 2).mean()
        accelerator.backward(loss)
        tick = len(losses) + 1
        controller.log(trigger=triggers.get(tick, 0.0), score=marks.get(tick, 0.0))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    accelerator.end_training()
    return [*losses, *(value for p in model.parameters() for value in p.flatten().tolist())]


@pytest.mark.parametrize("winner", ["nothing", "cooler"])
def test_a_loop_that_counts_steps_makes_all_of_them_besides(tmp_path: Path, winner: str) -> None:
    # The last arms end at the loop's very last step.
    policy = trial_policy(["cooler", "anew"], "here")
    tried = by_steps(tmp_path / "tried", policy, {32: 1.0}, scores(["cooler", "anew"], winner, 32))
    [outcome] = outcomes(tmp_path / "tried")
    assert (outcome.status, outcome.details["trial"]["kept"]) == (Status.APPLIED, winner)
    triggers = {} if winner == "nothing" else {32: 1.0}
    alone = by_steps(
        tmp_path / "alone", pull_policy(ARMS["cooler"]).replace("[trigger]", "[trigger, score]"), triggers, {}
    )
    again = 32 if winner == "nothing" else 0
    assert tried[32 + 3 * STEPS :] == alone[64 - again :]


def test_other_overrides_are_as_old_after_a_trial_as_if_it_had_not_been(tmp_path: Path) -> None:
    scale = "scale_lr: {factor: 0.5, hold: 8, ramp: 30}"
    cut = f"  - {{name: cut, when: trigger.value < -0.5, ladder: [[{scale}]]}}\n"
    policy = trial_policy(["anew"], "here").replace("rules:\n", f"rules:\n{cut}")
    loop = {"epochs": 4, "also": {"score": {}}}
    tried = train(tmp_path / "tried", policy, triggers={12: -1.0, TRIGGER: 1.0}, **loop)
    plain = train(tmp_path / "plain", policy, triggers={12: -1.0}, **loop)
    [_, outcome] = outcomes(tmp_path / "tried")
    assert outcome.details["trial"]["kept"] == "nothing"
    assert tried.losses[TRIGGER + 2 * STEPS :] == plain.losses[TRIGGER:]
    assert tried.losses[TRIGGER : TRIGGER + STEPS] == plain.losses[TRIGGER : TRIGGER + STEPS]
    assert tried.matches(plain)
