"""One process' part of a checkpoint on disk: complete and checksummed, or not there at all.

::

    RUN/checkpoints/NAME/rank-0.STAMP.safetensors    tensors: weights, buffers, moments, by name
    RUN/checkpoints/NAME/rank-0.STAMP.state          all else, as torch.save writes it
    RUN/checkpoints/NAME/rank-0.json                 the manifest, renamed into place last

Each file is written under a temporary name, synced and renamed; the manifest names the others with their
sizes and SHA-256, so that a part which is written anew (under another STAMP) replaces the older one at once.
A checkpoint without a readable manifest, or whose files differ from it, is none. The state is a pickle, as
in Accelerate's own checkpoints: load only what your own runs have written.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .manifest import DamagedCheckpoint, Manifest, facts_of, manifest_name, read_manifest

TENSORS, STATE = "safetensors", "state"
BESIDE = "accelerate."
"""Folders in which Accelerate keeps the tensors, where the user prefers that, begin so."""


def write(
    folder: Path,
    about: Manifest,
    tensors: Mapping[str, torch.Tensor],
    state: Any,
    beside: Path | None = None,
) -> Manifest:
    """Put a part on disk; it is durable and complete when this returns.

    An older part of the same name stays valid until the new one is complete, and is then removed. ``beside``
    is a folder within ``folder`` that others have written, and that is to be part of it.

    Raises:
        OSError: the disk is full, read-only or gone; what was half written is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"rank-{about.rank}.{about.stamp}"
    files: dict[str, tuple[int, str]] = {}
    try:
        if tensors:
            name = f"{stem}.{TENSORS}"
            _put(folder / name, lambda path: save_file(dict(tensors), path))
            files[name] = facts_of(folder / name)
        name = f"{stem}.{STATE}"
        _put(folder / name, lambda path: torch.save(state, path))
        files[name] = facts_of(folder / name)
        for path in sorted(beside.rglob("*")) if beside is not None else ():
            if path.is_file():
                _sync(path)
                files[str(path.relative_to(folder))] = facts_of(path)
        manifest = put_manifest(folder, replace(about, files=files))
    except BaseException:
        _remove(folder, f"{stem}.")
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise
    _remove(folder, f"rank-{about.rank}.", keep={*files, manifest_name(about.rank)})
    for older in folder.glob(f"{BESIDE}*") if beside is not None else ():
        if older != beside:
            shutil.rmtree(older, ignore_errors=True)
    sync_folder(folder.parent)
    return manifest


def put_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Say that a part is complete as of now, and newer than ``manifest`` says. Raises OSError."""
    # The clock of an earlier life may have been ahead: what comes later is newer all the same.
    stamped = replace(manifest, written=max(time.time(), math.nextafter(manifest.written, math.inf)))
    text = json.dumps(asdict(stamped), indent=1)
    _put(folder / manifest_name(manifest.rank), lambda path: path.write_text(text, encoding="utf-8"))
    return stamped


def load(folder: Path, rank: int) -> tuple[Manifest, dict[str, torch.Tensor], Any]:
    """Read a part back after verifying every byte: its manifest, its tensors by name, its state.

    Raises:
        DamagedCheckpoint: it is not what was written.
    """
    manifest = read_manifest(folder, rank)
    tensors: dict[str, torch.Tensor] = {}
    state: Any = None
    for name, expected in (manifest.files or {}).items():
        path = folder / name
        try:
            if facts_of(path) != expected:
                raise DamagedCheckpoint(f"{path}: its checksum is not that of the manifest")
            if path.parent != folder:
                continue
            if name.endswith(TENSORS):
                tensors = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=False)
        except DamagedCheckpoint:
            raise
        except Exception as error:
            raise DamagedCheckpoint(f"{path}: cannot be read: {error}") from error
    return manifest, tensors, state


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(path: Path, write_to: Callable[[Path], object]) -> None:
    """A file under its name once all of it is on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_to(partial)
        _sync(partial)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    except Exception as error:  # safetensors and torch tell a full disk by exceptions of their own
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from error
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(folder: Path, prefix: str, keep: Collection[str] = ()) -> None:
    for path in folder.iterdir():
        if path.name.lstrip(".").startswith(prefix) and path.name not in keep:
            path.unlink(missing_ok=True)
