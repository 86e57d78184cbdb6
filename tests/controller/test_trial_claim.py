"""On a real training run the trial picks the right correction for each of three faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trial_world import FAULTS, run

from midcourse.controller.demo.corpus import Corpus, load_corpus

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_right_arm_is_kept(tmp_path: Path, corpus: Corpus, fault: str, seed: int) -> None:
    _, told = run(fault, seed, corpus, tmp_path / "run")
    assert told is not None
    assert told["kept"] == FAULTS[fault], told["arms"]
