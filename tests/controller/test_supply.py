"""``supply/source=NAME``: the evidence that as much comes of each source as is asked of it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_loop import BATCH, Died, Trace, train

from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.outside import objections
from midcourse.controller.signals import Recorder
from midcourse.policies.policy import parse_policy

torch.set_num_threads(1)

POLICY = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
checkpoints: {every: 5, keep: 10}
monitors:
  scarce: {type: scarce, signal: "supply/source=*"}
rules:
  - name: leave-out
    when: trigger.value > 0.5
    ladder:
      - [reweight: {source: b, to: 0, hold: 1000}]
"""
AT = 23


def evidence(came: int, share: float, whole: int) -> float:
    """In nats, by Poisson: all that is asked for against three tenths of it."""
    expected = share * whole
    return (came * math.log(expected) - expected) - (came * math.log(0.3 * expected) - 0.3 * expected)


def supplies(run: Path) -> dict[int, dict[str, float]]:
    with JournalReader(run) as reader:
        return {
            sample.tick: {
                name.removeprefix("supply/source="): value
                for name, value in sample.signals.items()
                if name.startswith("supply/")
            }
            for sample in reader.samples()
        }


def course(run: Path | None, policy: str = POLICY, **kwargs: object) -> Trace:
    return train(run, policy, mixture=True, log_sources=True, triggers={AT: 1.0}, **kwargs)  # type: ignore[arg-type]


def test_it_is_told_at_every_tick_by_the_shares_that_the_very_batch_was_drawn_by(tmp_path: Path) -> None:
    trace = course(tmp_path)
    told = supplies(tmp_path)
    assert sorted(told) == trace.ticks
    for tick, ids in zip(trace.ticks, trace.ids, strict=True):
        came = Counter("abc"[i // 100] for i in ids)
        shares = dict.fromkeys("abc", 1 / 3) if tick <= AT else dict.fromkeys("ac", 1 / 2)
        expected = {name: evidence(came[name], share, BATCH) for name, share in shares.items()}
        assert told[tick] == pytest.approx(expected), tick


def test_a_run_that_is_resumed_goes_on_telling_it(tmp_path: Path) -> None:
    course(tmp_path / "whole")
    with pytest.raises(Died):
        course(tmp_path / "broken", die_at=33)
    course(tmp_path / "broken", resume="auto")
    assert supplies(tmp_path / "broken") == supplies(tmp_path / "whole")


def test_where_no_policy_reads_it_it_is_not_told(tmp_path: Path) -> None:
    course(tmp_path, POLICY.replace("supply/", "loss/").replace("type: scarce", "type: spike"))
    assert not any(supplies(tmp_path).values())


def test_of_a_source_of_which_none_came_there_is_evidence_against_it() -> None:
    recorder = Recorder(("a", "b", "c"))
    recorder.by_source.add(torch.ones(8), ["a"] * 6 + ["b"] * 2)
    signals = recorder.measured({"a": 0.5, "b": 0.25, "c": 0.25})
    told = {name[-1]: value for name, value in signals.items() if name.startswith("supply/")}
    assert told == pytest.approx({"a": evidence(6, 0.5, 8), "b": evidence(2, 0.25, 8), "c": -0.7 * 0.25 * 8})
    assert told["a"] > 0.0
    assert told["b"] > 0.0


def test_where_nothing_is_told_of_the_sources_nothing_is_of_their_supply() -> None:
    recorder = Recorder(("a", "b"))
    assert recorder.measured({"a": 1.0}) == {}


@pytest.mark.parametrize("signal", ["supply/source=*", "supply/source=code", "repeats", "moment_lag"])
def test_a_policy_that_is_edited_cannot_begin_to_read_it(signal: str) -> None:
    text = 'version: 1\nmonitors:\n  it: {type: frozen, signal: "%s"}\n'
    before, after = parse_policy(text % "update_ratio"), parse_policy(text % signal)
    told = "supply/source=*" if "supply" in signal else signal
    assert objections(before, after) == [
        f"'{told}' is not measured in this run, since its policy did not read it at the start"
    ]
    assert objections(after, before) == []
    assert objections(after, after) == []
