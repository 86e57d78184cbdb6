"""Strict YAML with places: every value knows its line and column, and every mistake is reported there.

The YAML is 1.2's core schema: ``1e-4`` is a number, ``on`` and ``yes`` are words. What makes a policy read
otherwise than it looks is refused: repeated keys, anchors and aliases, merge keys, tags, several documents.
The tree is built from the parser's events without recursion, so no nesting can exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import yaml

MAX_CHARACTERS = 256 * 1024
"""A policy is some hundred lines; what is larger was not written as one, and would take seconds to parse."""

_TOO_LARGE = f"a policy has at most {MAX_CHARACTERS} characters, and this file is larger"

MAX_DEPTH = 32
"""Of nesting. The deepest policy needs eight."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_HALF = re.compile("[\ud800-\udfff]")
_MAX_DIGITS = 30


class Place(NamedTuple):
    """A line and a column, both counted from 1, of the file that messages call ``source``."""

    line: int = 1
    column: int = 1
    source: str = ""


class Fault(NamedTuple):
    """One mistake: where, and what in words."""

    place: Place
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake of a policy, as ``file:line:col: message``."""

    source: str
    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.place.line}:{self.place.column}: {self.message}"


class PolicyError(ValueError):
    """A policy that cannot be used; ``problems`` are all of its mistakes, in the order of their places.

    Those of the file ``source`` come first, then those of the files that it extends. A place that names no
    file is one of ``source``.
    """

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self._made_of = (source, tuple(faults))
        files: dict[str, list[Fault]] = {source: []}
        for fault in sorted(set(self._made_of[1]), key=lambda fault: (fault.place.source, fault)):
            files.setdefault(fault.place.source or source, []).append(fault)
        self.problems = tuple(
            Problem(file, fault.place, _printable(fault.message))
            for file, faults in files.items()
            for fault in faults
        )
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[PolicyError], tuple[str, tuple[Fault, ...]]]:
        """It is to reach the process that asked for the policy, where that is another."""
        return type(self), self._made_of


def _printable(message: str) -> str:
    """A message on one line: what a policy can spell, but no terminal should be sent, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document: a scalar, a list of nodes, or a mapping from keys.

    ``text`` is a scalar as it was written. ``lead`` is how many characters behind ``place`` it begins, if it
    stands there character by character, so that a mistake inside it can be pointed at.
    """

    place: Place
    value: Scalar | list[Node] | dict[str, Entry]
    text: str = ""
    lead: int | None = None

    @property
    def entries(self) -> Mapping[str, Entry] | None:
        """Its keys and values, if it is a mapping."""
        return self.value if isinstance(self.value, dict) else None

    @property
    def items(self) -> list[Node] | None:
        """Its elements, if it is a list."""
        return self.value if isinstance(self.value, list) else None

    @property
    def plain(self) -> object:
        """The value without places, as ``json`` would give it."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain for item in self.value]
        return self.value

    def place_of(self, character: int) -> Place:
        """The place of one character of its text, or its own where that cannot be told."""
        if self.lead is None:
            return self.place
        return self.place._replace(column=self.place.column + self.lead + character)

    def __str__(self) -> str:
        """How an error message shows it."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "nothing"
        shown = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        return repr(shown) if isinstance(self.value, str) else shown


class Entry(NamedTuple):
    """A value of a mapping, and where its key stands."""

    place: Place
    node: Node


class _Mark(Protocol):
    line: int
    column: int


class _Refused(Exception):
    """The document ends here: what follows could not be understood."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(place, message)


def read_text(path: Path) -> str:
    """The text of a policy file. Raises PolicyError, with a place, where it cannot be read or is not text."""
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 1)
        if len(data) > 4 * MAX_CHARACTERS:
            raise PolicyError(str(path), [Fault(Place(), _TOO_LARGE)])
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PolicyError(str(path), [Fault(Place(), f"cannot be read: {reason}")]) from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
        raise PolicyError(str(path), [Fault(_place_behind(before), "is not UTF-8 text")]) from None


def read_document(text: str, faults: list[Fault], source: str = "") -> Node | None:
    """The tree of a YAML document; None if it cannot be relied on. Mistakes are added to ``faults``.

    ``source`` is what the places call the file; it may be left out where there is but one.
    """
    start = Place(source=source)
    try:
        if len(text) > MAX_CHARACTERS:
            raise _Refused(start, _TOO_LARGE)
        tree = _Tree(text, faults, start)
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            tree.take(event)
        return tree.finished()
    except _Refused as refused:
        faults.append(refused.fault)
    except yaml.reader.ReaderError as error:
        place = _place_behind(text[: error.position], source)
        faults.append(Fault(place, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"))
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark or error.context_mark, start)
        faults.append(Fault(place, f"is not YAML: {error.problem or error.context}"))
    return None


class _Open(NamedTuple):
    """A list or mapping that is not closed yet; ``key`` holds the key that waits for its value."""

    node: Node
    key: list[Node]


class _Tree:
    """Grows the tree, one event of the YAML parser after the other."""

    def __init__(self, text: str, faults: list[Fault], start: Place) -> None:
        self._text = text
        self._faults = faults
        self._start = start
        self._open: list[_Open] = []
        self._root: Node | None = None
        self._sound = True

    def finished(self) -> Node | None:
        if self._root is None or self._root.value is None:
            raise _Refused(self._start, "the policy is empty")
        return self._root if self._sound else None

    def take(self, event: yaml.Event) -> None:
        place = _place(event.start_mark, self._start)
        if isinstance(event, yaml.DocumentStartEvent) and self._root:
            raise _Refused(place, "a policy file holds one document, and here begins a second")
        if isinstance(event, yaml.NodeEvent):
            self._refuse_indirection(event, place)
        if isinstance(event, yaml.CollectionStartEvent):
            self._begin(Node(place, {} if isinstance(event, yaml.MappingStartEvent) else []))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self._open.pop().node)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event, place))
        elif isinstance(event, yaml.AliasEvent):
            self._add(Node(place, None))

    def _refuse_indirection(self, event: yaml.NodeEvent, place: Place) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._refuse(place, f"the alias '*{event.anchor}' is not supported: write the value out")
        elif event.anchor:
            self._refuse(
                place, f"the anchor '&{event.anchor}' is not supported: write the value where it is used"
            )
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            self._refuse(place, f"the tag '{event.tag}' is not supported")

    def _refuse(self, place: Place, message: str) -> None:
        self._faults.append(Fault(place, message))
        self._sound = False

    def _begin(self, node: Node) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise _Refused(node.place, f"the policy is nested more than {MAX_DEPTH} deep")
        self._open.append(_Open(node, []))

    def _add(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        container, key = self._open[-1]
        if isinstance(container.value, list):
            container.value.append(node)
        elif not key:
            key.append(node)
        else:
            self._set(cast("dict[str, Entry]", container.value), key.pop(), node)

    def _set(self, mapping: dict[str, Entry], key: Node, node: Node) -> None:
        if isinstance(key.value, dict | list):
            self._refuse(key.place, f"a key must be a word, not {key}")
        elif key.text == "<<" and key.value == "<<":
            self._refuse(key.place, "the merge key '<<' is not supported: write the keys out")
        elif key.text in mapping:
            first = mapping[key.text].place
            self._faults.append(
                Fault(key.place, f"the key '{key.text}' is here twice, first in line {first.line}")
            )
        else:
            mapping[key.text] = Entry(key.place, node)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Node:
        assert event.start_mark is not None
        assert event.end_mark is not None
        half = _HALF.search(event.value)
        if half:  # an escape can spell it, but no file can hold it
            self._refuse(place, f"the character U+{ord(half[0]):04X} is not text by itself")
        written = self._text[event.start_mark.index : event.end_mark.index]
        if event.style is None:
            return Node(place, resolved(event.value), event.value, 0 if written == event.value else None)
        quoted = event.style in "'\"" and written[1:-1] == event.value
        return Node(place, event.value, event.value, 1 if quoted else None)


def _place_behind(before: str, source: str = "") -> Place:
    """Where the character stands that follows this text."""
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"), source)


def _place(mark: _Mark | None, start: Place) -> Place:
    """Where the YAML parser stands; what it cannot place is the file's as a whole."""
    return start if mark is None else Place(mark.line + 1, mark.column + 1, start.source)


def resolved(word: str) -> Scalar:
    """The value of an unquoted scalar in YAML 1.2's core schema."""
    if word in _NULL:
        return None
    if word in _BOOLEAN:
        return _BOOLEAN[word]
    if _INTEGER.fullmatch(word) and len(word) <= _MAX_DIGITS:  # Python refuses to read very long ones
        return int(word, 0) if word[:2] in ("0o", "0x") else int(word)
    if _FLOAT.fullmatch(word):
        return float(word)
    special = _SPECIAL.fullmatch(word)
    if special:
        return float(word.replace(".", "").lower())
    return word
