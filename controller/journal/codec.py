"""How values lie in the journal: a tick's signals as packed doubles, the rest as strict JSON.

SQLite turns a NaN into NULL, and JSON has no word for it, so neither may carry measurements as they are.

Signals: every name has a number in the file (0, 1, 2, ... by first appearance). A tick is two
blobs: a little-endian bitmap of the numbers present and their values in rising order, eight bytes each,
so that every NaN and infinity comes back bit for bit and a missing name stays missing. Single columns of
a reading (score, level) are REAL, where NULL means NaN; they are never None.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from enum import Enum
from math import inf, isfinite, nan
from typing import Any

_FLOAT = "$float"  # {"$float": "nan"} stands for a float that JSON cannot write


def pack_signals(signals: Mapping[str, float], numbers: Mapping[str, int]) -> tuple[bytes, bytes]:
    """The two blobs of one tick; ``numbers`` gives the number of every name in ``signals``."""
    pairs = sorted((numbers[name], value) for name, value in signals.items())
    present = 0
    for number, _ in pairs:
        present |= 1 << number
    bitmap = present.to_bytes((present.bit_length() + 7) // 8, "little")
    try:
        return bitmap, struct.pack(f"<{len(pairs)}d", *[value for _, value in pairs])
    except (struct.error, OverflowError, TypeError, ValueError):
        return bitmap, struct.pack(f"<{len(pairs)}d", *[as_float(value) for _, value in pairs])


def unpack_signals(bitmap: bytes, values: bytes, names: Sequence[str]) -> dict[str, float]:
    """The signals of one tick; ``names`` are the file's signal names by number."""
    present = int.from_bytes(bitmap, "little")
    floats = struct.unpack(f"<{len(values) // 8}d", values)
    positions = (number for number in range(present.bit_length()) if present >> number & 1)
    return {names[number]: value for number, value in zip(positions, floats, strict=True)}


def places_of(bitmap: bytes, numbers: Sequence[int]) -> list[int | None]:
    """Where in the blob of values those of some numbers begin; None for what the bitmap has not."""
    present = int.from_bytes(bitmap, "little")
    return [
        8 * (present & ((1 << number) - 1)).bit_count() if number >= 0 and present >> number & 1 else None
        for number in numbers
    ]


def as_float(value: Any) -> float:
    """``value`` as a float, whatever a user logged: NaN where it is no number at all."""
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    except (TypeError, ValueError):
        return nan


def as_text(value: str) -> str:
    """``value`` as text that UTF-8 can write: a lone surrogate (an odd file name) is escaped."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def dump_json(value: Any) -> str:
    """``value`` as strict JSON. Never raises: what JSON does not know is written as its text."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def load_json(text: str) -> Any:
    """What ``dump_json`` wrote, with its NaN and infinities."""
    return json.loads(text, object_hook=_restore)


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` out of what JSON knows, with non-finite floats marked."""
    if value is None or isinstance(value, bool | str):
        return value
    if depth > 32:
        return str(type(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if isfinite(value) else {_FLOAT: repr(float(value))}
    if callable(getattr(value, "tolist", None)):  # numpy and torch, without importing either
        return _plain(value.tolist(), depth + 1)
    return str(value)


def _restore(pairs: dict[str, Any]) -> Any:
    if len(pairs) == 1 and isinstance(text := pairs.get(_FLOAT), str):
        return as_float(text)
    return pairs
