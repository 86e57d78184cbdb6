"""The journal: one SQLite file a run, durable before every act."""

from __future__ import annotations

from .place import JournalError
from .reader import JournalReader
from .store import Journal

__all__ = ["Journal", "JournalError", "JournalReader"]
