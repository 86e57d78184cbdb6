"""Iterable data sets: rewound exactly where they keep a state, never where they do not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, IterableDatasetShard
from small_loop import BATCH, StatefulStream, Stream, dataset, rollback_policy, train
from torch.utils.data import DataLoader

from midcourse.controller import streams
from midcourse.controller.actuators.act import ACTUATORS
from midcourse.controller.feed import Feed
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

IN_SECOND_PASS, ACROSS, AT_PASS_END = 37, 28, 40


@pytest.mark.parametrize("dispatched", [True, False])
@pytest.mark.parametrize(
    ("tick", "break_off"), [(IN_SECOND_PASS, None), (ACROSS, None), (AT_PASS_END, None), (20, 13)]
)
def test_a_stream_with_state_is_replayed_exactly(
    tmp_path: Path, tick: int, dispatched: bool, break_off: int | None
) -> None:
    loop: dict[str, Any] = {"stream": StatefulStream, "dispatched": dispatched, "break_off": break_off}
    plain = train(**loop, epochs=4)
    replayed = train(tmp_path, rollback_policy("replay"), triggers={tick: 1.0}, **loop, epochs=4)
    with JournalReader(tmp_path) as reader:
        (outcome,) = reader.outcomes()
    details = outcome.details["rollback"]
    assert (outcome.status, details["data"]) == (Status.APPLIED, "replay")
    back = details["target_tick"]
    assert replayed.losses == plain.losses[:tick] + plain.losses[back:]
    assert replayed.matches(plain)


@pytest.mark.parametrize("asked", ["skip", "replay"])
def test_a_stream_without_state_goes_forward_and_the_report_names_the_remedy(
    tmp_path: Path, asked: str
) -> None:
    said: list[str] = []
    plain = train(stream=Stream)
    policy = rollback_policy(asked)
    kept = train(tmp_path, policy, triggers={IN_SECOND_PASS: 1.0}, stream=Stream, say=said.append)
    assert f"rollback goes on by forward only: {streams.NEEDS_STATE}" in said
    assert "state_dict" in streams.NEEDS_STATE
    with JournalReader(tmp_path) as reader:
        details = reader.outcomes()[0].details["rollback"]
    assert (details["data"], details["asked"]) == ("forward", asked)
    assert details["because"] == streams.NEEDS_STATE
    assert kept.ids == plain.ids
    assert not kept.matches(plain)


def test_an_act_taken_back_leaves_a_stream_without_state_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setitem(ACTUATORS, "checkpoint", fails)
    policy = rollback_policy("replay").replace("data: replay}", "data: replay}, checkpoint: {}")
    plain = train(stream=Stream)
    kept = train(tmp_path, policy, triggers={IN_SECOND_PASS: 1.0}, stream=Stream)
    with JournalReader(tmp_path) as reader:
        assert reader.outcomes()[0].status is Status.FAILED
    assert kept.ids == plain.ids
    assert kept.matches(plain)


def test_persistent_workers_keep_a_streams_state_to_themselves() -> None:
    def loader(**how: Any) -> Any:
        return DataLoader(StatefulStream(), batch_size=BATCH, num_workers=1, **how)

    assert streams.why_not_anew(loader()) is None
    assert streams.why_not_anew(loader(persistent_workers=True)) == streams.NEEDS_FRESH_WORKERS
    mapped = DataLoader(dataset(), batch_size=BATCH, num_workers=1, persistent_workers=True)
    assert streams.why_not_anew(mapped) is None


def test_a_stream_is_found_under_what_accelerate_wraps_around_it() -> None:
    stream = StatefulStream()
    shard = DataLoaderShard(IterableDatasetShard(stream, batch_size=BATCH, num_processes=2), batch_size=BATCH)
    assert streams.stream_of(shard) is stream
    before = streams.capture(shard)
    first = [ids.tolist() for *_, ids in shard]
    assert [ids.tolist() for *_, ids in shard] != first
    streams.restore(shard, before)
    assert [ids.tolist() for *_, ids in shard] == first
    assert streams.capture(DataLoader(dataset())) is None


def test_a_dispatcher_skips_a_streams_batches_as_the_processes_get_them() -> None:
    counted = []
    for data in (StatefulStream(), dataset()):
        loader = DataLoaderDispatcher(data, batch_size=BATCH)
        loader.state = SimpleNamespace(num_processes=3)
        counted.append(Feed(loader, desk=None)._base_batches())  # type: ignore[arg-type]
    assert counted == [1, 3]
