"""SIGKILL in the middle of the demo: the journal opens and holds every decision that was made."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Disposition

DEMO = "from midcourse.controller.cli import main; main()"
TOLD = re.compile(r"^(\S+@\d+): .*; ")


@pytest.mark.slow
@pytest.mark.parametrize("acts", [1, 2])
def test_a_killed_demo_leaves_every_decision(tmp_path: Path, acts: int) -> None:
    command = [sys.executable, "-u", "-c", DEMO, "demo", "--quick", "--json", "--run-dir", str(tmp_path)]
    environment = {**os.environ, "COLUMNS": "2000", "TERM": "dumb"}
    demo = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert demo.stderr is not None
    told: list[str] = []
    for line in demo.stderr:
        if match := TOLD.match(line):
            told.append(match[1])
        if len(told) == acts:
            demo.send_signal(signal.SIGKILL)
            break
    demo.stderr.close()
    assert demo.wait() == -signal.SIGKILL
    with JournalReader(tmp_path) as journal:
        assert not journal.running
        decided = {d.id for d in journal.decisions() if d.disposition is Disposition.ACT}
        settled = {outcome.decision_id for outcome in journal.outcomes()}
        assert set(told) <= decided
        assert set(told) <= settled
        assert len(list(journal.samples())) > 100
