"""What a process says of its part of a checkpoint, and whether that is true; read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMAT = 1
"""Of what is written here. A checkpoint of another one is not read."""

FOLDER = "checkpoints"
"""Of a run: the folder that holds one for each checkpoint."""


class DamagedCheckpoint(ValueError):
    """A checkpoint is torn, was tampered with, or is of another format; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a process says of its part of a checkpoint.

    ``stamp`` is the same in the parts of all processes, and another one each time a checkpoint is written:
    parts that two attempts have left under one name are no checkpoint. ``files`` maps names to size in bytes
    and SHA-256. ``written`` is Unix time, or a little more where that of an older checkpoint was ahead.
    """

    name: str
    tick: int
    step: int
    branch: int
    rank: int
    world: int
    stamp: str
    written: float = 0.0
    files: Mapping[str, tuple[int, str]] | None = None
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """What the files take."""
        return sum(size for size, _ in (self.files or {}).values())


def read_manifest(folder: Path, rank: int) -> Manifest:
    """The manifest of a process' part, its files there and of the right size.

    Raises:
        DamagedCheckpoint: it is missing or unreadable, or a file is missing or torn.
    """
    path = folder / manifest_name(rank)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise DamagedCheckpoint(f"{path}: format {found['format']}, this version reads {FORMAT}")
        files = {name: (int(size), str(digest)) for name, (size, digest) in found["files"].items()}
        manifest = Manifest(**{**found, "files": files})
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: missing, so the checkpoint was never completed") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, DamagedCheckpoint):
            raise
        raise DamagedCheckpoint(f"{path}: not a manifest: {error}") from error
    for name, (size, _) in files.items():
        actual = (folder / name).stat().st_size if (folder / name).is_file() else None
        if actual != size:
            raise DamagedCheckpoint(f"{folder / name}: {actual} bytes, the manifest says {size}")
    return manifest


def facts_of(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def manifest_name(rank: int) -> str:
    """The file whose presence says that a process' part is complete."""
    return f"rank-{rank}.json"
