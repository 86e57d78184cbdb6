"""SIGKILL at random moments of a real run, also while a checkpoint is being written."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture import Torture


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("ranks", "kills"), [(1, 20), (2, 8)])
def test_a_run_that_is_killed_ends_as_if_nobody_had_disturbed_it(
    tmp_path: Path, ranks: int, kills: int
) -> None:
    torture = Torture(tmp_path, ranks, seed=ranks)
    torture.kill(kills)
    assert torture.tally.kills == kills
    assert torture.tally.in_writing >= kills // 4
