"""SIGTERM reaches whom it is meant for: a run that has something to save, and nobody else is held up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_loop import train
from test_checkpoint_faults import POLICY, events

from midcourse.controller.termination import EXIT_CODE, Termination

torch.set_num_threads(1)

HERE = Path(__file__).parent

FORKS = """
import sys, time
from multiprocessing import get_context
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from small_loop import train
from test_checkpoint_faults import POLICY

def evaluate():
    child = get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.2)
    child.terminate()
    child.join(10)
    print(child.exitcode, flush=True)
    child.kill()

train(Path(sys.argv[1]), POLICY, evaluate=evaluate, epochs=1)
"""


@pytest.mark.slow
def test_a_forked_child_ends_by_sigterm(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FORKS)
    command = [sys.executable, str(script), str(tmp_path / "run"), str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == [str(-signal.SIGTERM)], done.stderr


def test_sigterm_at_the_last_step_ends_the_process_when_the_loop_has_ended(tmp_path: Path) -> None:
    steps: list[int] = []

    def after_step() -> None:
        steps.append(1)
        if len(steps) == 60:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        train(tmp_path, POLICY, after_step=after_step)
    assert left.value.code == EXIT_CODE
    assert [event.tick for event in events(tmp_path, "checkpoint")][-1] == 60
    assert [event.tick for event in events(tmp_path, "terminated")] == [60]


def test_after_the_loop_sigterm_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[bool] = []
    monkeypatch.setattr(Termination, "release", lambda self: armed.append(self.armed))
    trace = train(tmp_path, POLICY)
    assert trace.controller is not None
    assert armed == [False]


def test_a_handler_that_is_put_back_too_late_does_not_swallow_the_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    first, second = Termination(), Termination()
    try:
        first.install()
        first.armed = True
        second.install()
        first.release()
        second.release()  # which puts the first one's handler back
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
