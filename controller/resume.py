"""Going on from a durable checkpoint in a new process, exactly where the one before stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .cycle import Cycle
from .durable.checkpoints import Checkpoints, Entry, Parcel, of_others
from .durable.manifest import DamagedCheckpoint, Manifest, read_manifest
from .feed import Feed
from .loader import WatchedLoader
from .loop import Counters
from .ranks import Ranks
from .records import Records
from .run import Run

AUTO = "auto"
"""Go on from the newest complete checkpoint of the run's folder; where there is none, begin anew."""

NEEDS_COUNTER = (
    "resume: the loop's counter is its own and would begin anew: count with controller.epochs(n) or "
    "controller.steps(n)"
)
NEEDS_COUNTER_FIRST = (
    "resume: a pass over the training loader has begun before controller.epochs or .steps was asked for its "
    "first number: ask the counter first, as in zip(controller.steps(n), loader)"
)
NEEDS_PREPARE = "resume: nothing is prepared yet: call accelerator.prepare before controller.epochs or .steps"
NEEDS_LOADER = (
    "resume: the training loader was not prepared by accelerator.prepare, so its place in the data is unknown"
)


def choose(ask: str | Path, checkpoints: Checkpoints, ranks: Ranks) -> tuple[str, Parcel] | None:
    """The checkpoint to go on from, its name and content: the newest that all processes can read whole.

    Args:
        ask: ``"auto"``, or the folder of one checkpoint.
        checkpoints: Those of the run's folder; told of damaged ones, which are passed over.
        ranks: The run's processes.

    Raises:
        ValueError: the one that was asked for cannot be read; or it, or the newest, was written by another
            number of processes: to begin anew would lose that run.
    """
    if ask != AUTO:
        return _only(Path(ask), checkpoints)
    for name in _candidates(checkpoints, ranks):
        parcel, failure = checkpoints.read_together(name)
        if parcel is not None:
            return name, parcel
        checkpoints.forget(name, failure)
    return None


def _only(path: Path, checkpoints: Checkpoints) -> tuple[str, Parcel]:
    if path.resolve().parent != checkpoints.folder.resolve():
        raise ValueError(f"resume: {path} is not among the checkpoints of this run, {checkpoints.folder}")
    parcel, failure = checkpoints.read_together(path.name)
    if parcel is None:
        raise ValueError(f"resume: {failure}")
    return path.name, parcel


def _candidates(checkpoints: Checkpoints, ranks: Ranks) -> list[str]:
    """Names that every process has a complete part of, the one that rank 0 wrote last first."""
    found: dict[str, Manifest] = {}
    folders = sorted(checkpoints.folder.iterdir()) if checkpoints.folder.is_dir() else []
    for folder in filter(Path.is_dir, folders):
        try:
            found[folder.name] = read_manifest(folder, ranks.rank)
        except DamagedCheckpoint as error:
            checkpoints.forget(folder.name, str(error))
    everywhere = ranks.gather(found)
    names = sorted(everywhere[0], key=lambda name: -everywhere[0][name].written)
    if names:
        newest = everywhere[0][names[0]]
        checkpoints.seen(newest.written)
        if newest.world != ranks.world:
            raise ValueError(f"resume: {checkpoints.folder / newest.name} {of_others(newest, ranks)}")
    stamps = [{name: manifest.stamp for name, manifest in there.items()} for there in everywhere]
    return [name for name in names if all(there.get(name) == stamps[0][name] for there in stamps)]


def own_state(
    cycle: Cycle, counters: Counters, records: Records | None, loaders: Sequence[WatchedLoader]
) -> dict[str, Any]:
    """What goes on from a durable checkpoint besides the training state."""
    feed = cycle.run.feed
    state: dict[str, Any] = {
        name: part.state_dict() for name, part in _parts(cycle, counters, records).items()
    }
    state["optimizer"] = type(cycle.run.optimizer).__name__
    if feed is not None:
        state["feed"] = feed.state_dict()
        state["loader"] = next(i for i, watched in enumerate(loaders) if watched.feed is feed)
    return state


def go_on(
    ask: str | Path,
    cycle: Cycle,
    counters: Counters,
    records: Records | None,
    loaders: Sequence[WatchedLoader],
) -> str | None:
    """Put a prepared run where the checkpoint stands; returns its name, or None where there is none yet.

    Raises:
        ValueError: it cannot go on from there; the message says why and what helps.
    """
    run = cycle.run
    chosen = choose(ask, run.checkpoints, run.ranks)
    if chosen is None:
        return None
    name, parcel = chosen
    if parcel.snapshot.moment.place is None or parcel.own["loader"] >= len(loaders):
        raise ValueError(NEEDS_LOADER)
    feed = loaders[parcel.own["loader"]].feed
    if feed.serving:
        raise ValueError(NEEDS_COUNTER_FIRST)
    cycle.resume(feed)
    put_in_place(run, name, parcel, feed, _parts(cycle, counters, records))
    cycle.gone_on()
    return name


def _parts(cycle: Cycle, counters: Counters, records: Records | None) -> dict[str, Any]:
    run = cycle.run
    parts = {**cycle.parts(), "counters": counters, "checkpoints": run.checkpoints}
    if run.mix is not None:
        parts["mix"] = run.mix
    if records is not None:
        parts["pilot"] = records.pilot
    return parts


def put_in_place(run: Run, name: str, parcel: Parcel, feed: Feed, parts: Mapping[str, Any]) -> None:
    """Make a checkpoint's state the present one.

    Args:
        run: Everything of it is prepared, and its feed is ``feed``.
        name: The checkpoint's.
        parcel: Its content.
        feed: The training loader's.
        parts: What goes on besides, by the names that ``Run.own_state`` gave their states.

    Raises:
        ValueError: the checkpoint is of another model or optimizer, or holds an object that is not there.
    """
    snapshot, own = parcel.snapshot, parcel.own
    moment = snapshot.moment
    _compare(run, parcel)
    if parcel.beside is None:
        tensors = snapshot.tensors
    else:
        accelerator = run.accelerator
        # The class's own: the instance's is watched for what the loop itself loads.
        type(accelerator).load_state(accelerator, str(run.checkpoints.folder / name / parcel.beside))
        tensors = [tensor.clone() for tensor in run.state.tensors()]
    run.state.restore(tensors, snapshot.small, rewind=True)
    run.clock.tick, run.clock.step, run.clock.branch = moment.tick, moment.step, moment.branch
    run.detectors.load_state_dict(moment.detectors)
    for label, part in parts.items():
        if label in own:
            part.load_state_dict(own[label])
    assert moment.place is not None
    feed.resume(own["feed"], moment.place, moment.random_state, moment.batch)
    good = run.ranks.share(snapshot.good)
    run.checkpoints.gone_on_from(Entry(name, moment.tick, moment.step, good))


def _compare(run: Run, parcel: Parcel) -> None:
    """See that what was saved has its counterpart in this run."""
    kept, live = parcel.snapshot.small, run.state.small()
    names = {"optimizer": parcel.own["optimizer"], "parameter groups": len(kept.groups)}
    own = {"optimizer": type(run.optimizer).__name__, "parameter groups": len(live.groups)}
    for what, was in names.items():
        if was != own[what]:
            raise ValueError(f"resume: the checkpoint's {what}: {was}; this run's: {own[what]}")
    saved = {**kept.always, **kept.schedule}
    if missing := sorted(saved.keys() - live.always.keys() - live.schedule.keys()):
        raise ValueError(
            f"resume: the checkpoint holds {', '.join(missing)}, which this run does not have: prepare or "
            "register(...) before the loop what the earlier process had"
        )
    if parcel.beside is None:
        _compare_models(run, parcel)


def _compare_models(run: Run, parcel: Parcel) -> None:
    """See that the model is the one that was saved; buffers may be made, or grow, when first needed."""
    small = parcel.snapshot.small
    kept = _shapes(parcel.labels, parcel.snapshot.tensors)
    live = _shapes(run.state.labels(), run.state.tensors())
    parameters = {*parcel.labels[: len(small.graded)], *run.state.labels()[: run.state.changing().start]}
    differing = sorted(
        name
        for name in kept.keys() | live.keys()
        if (name in parameters and kept.get(name) != live.get(name)) or name not in kept
    )
    if differing:
        label = differing[0]
        raise ValueError(
            f"resume: the checkpoint is of another model: {len(differing)} tensors differ, the first is "
            f"{label!r}: {kept.get(label, 'missing')} in the checkpoint, {live.get(label, 'missing')} now"
        )
    modules = len(run.state.small().buffers)
    if len(small.buffers) != modules:
        raise ValueError(
            f"resume: the checkpoint is of another model: it had {len(small.buffers)} modules, now {modules}"
        )


def _shapes(labels: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """By name; the optimizer's state may not exist yet."""
    return {
        label: tuple(tensor.shape)
        for label, tensor in zip(labels, tensors, strict=True)
        if not label.startswith("optimizer.")
    }
