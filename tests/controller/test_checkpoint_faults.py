"""Disks that fill up, turn read-only or lose what was written: training goes on, an older state serves."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Died, train

from midcourse.controller.durable import files
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

HERE = Path(__file__).parent

POLICY = """
version: 1
signals: [trigger]
snapshots: {keep: 2, reach: 160, every: 5}
checkpoints: {every: 5, keep: 100}
rules:
  - name: back
    when: trigger.value > 0.5
    budget: {acts: 3, per: 1000}
    ladder:
      - [rollback: {to: {steps: 12}, data: replay}]
"""


def events(folder: Path, kind: str) -> list[Any]:
    with JournalReader(folder) as reader:
        return [event for event in reader.events() if event.kind == kind]


ON_A_TMPFS = """
import json, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from small_loop import Died, network, train
from test_checkpoint_faults import POLICY, events
import torch

run, fault = Path(sys.argv[1]), sys.argv[3]
torch.set_num_threads(1)

def spoil(tick, loss):
    if tick == 22 and fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(run / "checkpoints")], check=True)
    return loss

wide = lambda: network(4000)  # a checkpoint of half a megabyte
whole = train(run.with_name("whole"), POLICY, build=wide)
faulty = train(run, POLICY, build=wide, spoil=spoil, resume="auto")
metrics = faulty.controller._records.metrics.registry
failed = [event.detail["name"] for event in events(run, "checkpoint_failed")]
written = [event.detail["name"] for event in events(run, "checkpoint")]
again = train(run, POLICY, build=wide, resume="auto")
print(json.dumps({
    "same": faulty.matches(whole),
    "failed": failed,
    "written": written,
    "shown": faulty.errors,
    "left": [str(path) for path in run.rglob("*.partial")],
    "resumed": again.controller.resumed,
    "same again": again.matches(whole),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_no_more_is_told_and_the_run_goes_on(tmp_path: Path, fault: str) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    size = "3m" if fault == "full" else "100m"
    mount = shlex.join(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(run / "checkpoints")])
    own_mounts = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own_mounts, mount], capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody mount a tmpfs of one's own")
    script = tmp_path / "script.py"
    script.write_text(ON_A_TMPFS)
    command = f"{mount} && exec {shlex.join([sys.executable, str(script), str(run), str(HERE), fault])}"
    done = subprocess.run([*own_mounts, command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["same"]
    assert said["written"]
    assert said["failed"]
    assert said["shown"] == len(said["failed"])
    assert said["left"] == []
    assert said["resumed"] == int(said["written"][-1].removeprefix("tick-"))
    assert said["same again"]


def test_a_folder_that_cannot_be_made_is_told_once_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").write_text("in the way")
    trace = train(run, POLICY)
    assert trace.matches(train(tmp_path / "whole", POLICY))
    failed = events(run, "checkpoint_failed")
    assert [event.tick for event in failed] == list(range(5, 61, 5))
    assert trace.errors == len(failed)


def test_beyond_the_rings_reach_a_checkpoint_serves(tmp_path: Path) -> None:
    # Two snapshots in memory reach 10 ticks back, the rollback wants 12 or more: tick 15 is on disk alone.
    trace = train(tmp_path, POLICY, triggers={29: 1.0})
    with JournalReader(tmp_path) as reader:
        (outcome,) = reader.outcomes()
    assert outcome.status is Status.APPLIED
    assert outcome.details["rollback"]["target_tick"] == 15
    assert trace.matches(train())


def test_a_damaged_checkpoint_is_passed_over_by_a_rollback_too(tmp_path: Path) -> None:
    def damage(tick: int, loss: torch.Tensor) -> torch.Tensor:
        if tick == 28:
            path = next((tmp_path / "checkpoints" / "tick-00000015").glob("*.safetensors"))
            os.truncate(path, 10)
        return loss

    trace = train(tmp_path, POLICY, triggers={29: 1.0}, spoil=damage)
    with JournalReader(tmp_path) as reader:
        (outcome,) = reader.outcomes()
    assert outcome.details["rollback"]["target_tick"] == 10
    assert [event.detail["name"] for event in events(tmp_path, "checkpoint_failed")] == ["tick-00000015"]
    assert trace.matches(train())


NAMED = """
version: 1
signals: [trigger, save]
snapshots: {keep: 6, reach: 160, every: 5}
rules:
  - name: save
    when: save.value > 0.5
    ladder:
      - [checkpoint: {name: best}]
  - name: back
    when: trigger.value > 0.5
    ladder:
      - [rollback: {to: {checkpoint: best}, data: replay}]
      - [rollback: {to: {checkpoint: worst}, data: replay}]
"""


def test_a_checkpoint_can_be_named_and_returned_to(tmp_path: Path) -> None:
    saved: list[int] = []

    def save(tick: int, loss: torch.Tensor) -> torch.Tensor:
        if tick == 13 and not saved:
            saved.append(tick)
        return loss

    trace = train(tmp_path, NAMED, triggers={29: 1.0}, spoil=save, also={"save": {13: 1.0}})
    with JournalReader(tmp_path) as reader:
        outcomes = reader.outcomes()
    assert [o.status for o in outcomes] == [Status.APPLIED] * 2
    assert outcomes[1].details["rollback"]["target_tick"] == 13
    assert trace.matches(train())


def test_a_name_that_was_never_saved_is_refused_with_those_there_are(tmp_path: Path) -> None:
    train(tmp_path, NAMED, triggers={29: 1.0})
    with JournalReader(tmp_path) as reader:
        outcomes = reader.outcomes()
    assert outcomes[0].status is Status.REFUSED
    assert "no checkpoint 'best' of this course; there are: none" in outcomes[0].reason


def test_only_so_many_are_kept_and_the_newest_good_one_besides(tmp_path: Path) -> None:
    policy = POLICY.replace("keep: 100", "keep: 2")
    train(tmp_path, policy)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "tick-00000055",
        "tick-00000060",
    ]


def test_weights_can_be_read_without_midcourse(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trace = train(tmp_path, POLICY)
    path = next((tmp_path / "checkpoints" / "tick-00000060").glob("*.safetensors"))
    tensors = load_file(path)
    assert torch.equal(tensors["model.0.weight"], trace.parameters[0])
    assert "optimizer.0.exp_avg" in tensors


def test_what_fails_to_be_written_leaves_the_older_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = files.Manifest("x", 1, 1, 0, rank=0, world=1, stamp="a")
    folder = tmp_path / "x"
    files.write(folder, about, {"a": torch.ones(3)}, "old")
    monkeypatch.setattr(files.torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(OSError, match="no"):
        files.write(folder, replace(about, stamp="b"), {"a": torch.zeros(3)}, "new")
    _, tensors, state = files.load(folder, 0)
    assert (tensors["a"].tolist(), state) == ([1.0] * 3, "old")
    assert len(list(folder.iterdir())) == 3


TERMINATED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import time
from small_loop import train
from test_checkpoint_faults import POLICY

def slowly(tick, loss):
    print(tick, flush=True)
    time.sleep(0.02)
    return loss

train(Path(sys.argv[1]), POLICY.replace("every: 5, keep: 100", "every: 1000"), spoil=slowly, epochs=100)
"""


@pytest.mark.slow
def test_sigterm_saves_before_the_process_leaves(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TERMINATED)
    run = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, str(script), str(run), str(HERE)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == 23:
            child.send_signal(signal.SIGTERM)
            break
    child.stdout.close()
    assert child.wait(60) == 128 + signal.SIGTERM
    (terminated,) = events(run, "terminated")
    (saved,) = events(run, "checkpoint")
    assert 23 <= saved.tick == terminated.tick <= 26
    resumed = train(run, POLICY.replace("every: 5, keep: 100", "every: 1000"), resume="auto")
    assert resumed.controller is not None
    assert resumed.controller.resumed == saved.tick
    assert resumed.matches(train())


def test_a_dead_loops_last_checkpoint_gets_complete(tmp_path: Path) -> None:
    with pytest.raises(Died):
        train(tmp_path, POLICY, die_at=21)
    assert files.read_manifest(tmp_path / "checkpoints" / "tick-00000020", 0).tick == 20
