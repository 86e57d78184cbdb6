"""Training text that every machine has: Python's own standard library, as three sources.

- ``code``: source files of a dozen packages;
- ``docs``: the language reference as ``help()`` knows it;
- ``tables``: character names, HTML entities and code pages, rendered as lines of data.

The same Python version gives the same bytes everywhere. Each source is a list of documents; every
eighth one is for validation, so that no window of text is on both sides. `binaries` are compiled
machine code from real files: what a source delivers when its storage goes wrong.
"""

from __future__ import annotations

import codecs
import html.entities
import sys
import sysconfig
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor
from torch.utils.data import Dataset

WINDOW = 65
"""Bytes of an example: 64 to read, each with the next to predict."""

_HELD_OUT_EVERY = 8
_VALIDATION_WINDOWS = 256  # of each source: 16 k predictions, their mean is good to about 1 %
_PACKAGES = ("asyncio", "email", "http", "json", "logging", "multiprocessing", "urllib", "xml")
_CODE_PAGES = (
    "cp437",
    "cp737",
    "cp850",
    "cp866",
    "cp1250",
    "cp1251",
    "cp1253",
    "iso8859-5",
    "koi8-r",
    "mac-greek",
)
_BINARY_BYTES = 1 << 20


class Windows(Dataset[dict[str, Tensor]]):
    """Text cut into windows of 65 bytes; an item is ``{"bytes": int64 [65]}``."""

    def __init__(self, text: bytes) -> None:
        count = len(text) // WINDOW
        flat = torch.frombuffer(bytearray(text[: count * WINDOW]), dtype=torch.uint8)
        self.windows = flat.view(count, WINDOW)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"bytes": self.windows[index].long()}


@dataclass(frozen=True, slots=True)
class Corpus:
    """The three sources by name, for training and validation, and what a broken one delivers."""

    train: dict[str, Windows]
    validation: dict[str, Tensor]
    binaries: Windows


def load_corpus() -> Corpus:
    """Read everything from this interpreter's own files; takes about a second."""
    train, validation = {}, {}
    for name, documents in {"code": _code(), "docs": _docs(), "tables": _tables()}.items():
        held_out = documents[::_HELD_OUT_EVERY]
        learned = [text for index, text in enumerate(documents) if index % _HELD_OUT_EVERY]
        train[name] = Windows("\n".join(learned).encode())
        windows = Windows("\n".join(held_out).encode()).windows
        stride = max(1, len(windows) // _VALIDATION_WINDOWS)
        validation[name] = windows[::stride][:_VALIDATION_WINDOWS].long()
    return Corpus(train, validation, _binaries())


def _code() -> list[str]:
    library = Path(sysconfig.get_path("stdlib"))
    files = [file for package in _PACKAGES for file in sorted((library / package).rglob("*.py"))]
    return [file.read_text(encoding="utf-8") for file in files]


def _docs() -> list[str]:
    return [text for _, text in sorted(topics.items())]


def _tables() -> list[str]:
    lines = [*_characters(), *_entities(), *_code_pages()]
    return ["\n".join(lines[start : start + 128]) for start in range(0, len(lines), 128)]


def _characters() -> Iterator[str]:
    for code in range(0x20, 0x3000):
        character = chr(code)
        if name := unicodedata.name(character, ""):
            kind, direction = unicodedata.category(character), unicodedata.bidirectional(character)
            yield f"{code:04X};{name};{kind};{unicodedata.combining(character)};{direction}"


def _entities() -> Iterator[str]:
    for entity, characters in sorted(html.entities.html5.items()):
        yield f"&{entity}\t" + " ".join(f"U+{ord(character):04X}" for character in characters)


def _code_pages() -> Iterator[str]:
    for page in _CODE_PAGES:
        for byte, character in enumerate(codecs.decode(bytes(range(256)), page, "replace")):
            yield f"{page}\t0x{byte:02X}\t0x{ord(character):04X}"


def _binaries() -> Windows:
    """Machine code: 64 KiB from the middle of each compiled file, without the zeros that pad it."""
    code = b"".join(islice(map(_middle, _compiled_files()), _BINARY_BYTES // (1 << 16)))
    windows = Windows(code)
    windows.windows = windows.windows[(windows.windows == 0).float().mean(dim=1) < 0.5]
    return windows


def _compiled_files() -> Iterator[Path]:
    """The interpreter's extension modules, then itself, then torch's own libraries: some exist everywhere."""
    extensions = Path(sysconfig.get_config_var("DESTSHARED") or Path(sys.base_prefix, "DLLs"))
    yield from sorted(file for file in extensions.glob("*") if file.suffix in {".so", ".pyd", ".dylib"})
    yield Path(sys.executable).resolve()
    libraries = Path(torch.__file__).parent / "lib"
    yield from sorted(file for file in libraries.glob("*torch_python*") if file.is_file())
    yield from sorted(file for file in libraries.glob("*c10*") if file.is_file())


def _middle(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(file.stat().st_size // 2)
        return stream.read(1 << 16)
