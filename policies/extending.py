"""``extends:``, which builds a policy on another: where the other is, and the chain of all of them.

``extends: baseline`` names a shipped policy; all else is the path of a file, relative to the folder of the
file that says it (``extends: ./baseline`` is a file). What is extended may extend in turn.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from .document import Fault, Node, PolicyError, read_document, read_text
from .names import nearest

MAX_FILES = 8
"""Of a chain. Nobody can tell what a policy does that is spread over more."""

_BARE_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A policy's text and where it comes from.

    ``name`` is what messages call it, ``path`` its file (None: it is at hand as text), and ``folder`` where
    the relative paths in it begin (None: nowhere).
    """

    text: str
    name: str
    path: Path | None = None
    folder: Path | None = None

    @classmethod
    def file(cls, path: Path) -> Source:
        """That of a file. Raises PolicyError where it cannot be read."""
        return cls(read_text(path), str(path), path.absolute(), path.parent)

    @classmethod
    def shipped(cls, name: str) -> Source | None:
        """That of a policy in ``configs/``, by its bare name; None if there is none."""
        path = shipped_path(name)
        return None if path is None else cls(path.read_text("utf-8"), path.name, path, path.parent)


def shipped_path(name: str, suffix: str = ".yaml") -> Path | None:
    """The file of a shipped policy by its bare name, or of its tests (``.test.yaml``); None if none."""
    path = Path(str(_SHIPPED / f"{name}{suffix}"))
    return path if _BARE_NAME.fullmatch(name) and os.path.isfile(path) else None


_SHIPPED = files(f"{__package__.rpartition('.')[0]}.configs")


class Layer(NamedTuple):
    """One policy of a chain, as it is written."""

    source: Source
    document: Node


def read_layers(first: Source, faults: list[Fault]) -> list[Layer]:
    """A policy and what it extends, that which extends nothing last; none if the chain cannot be followed.

    Mistakes of YAML and of ``extends`` go to ``faults``: also some that leave all layers readable.
    """
    layers: list[Layer] = []
    source: Source | None = first
    while source is not None:
        document = read_document(source.text, faults, source.name)
        if document is None:
            return []
        layers.append(Layer(source, document))
        named = (document.entries or {}).get("extends")
        if named is None or named.node.value is None:
            break
        try:
            source = _extended(named.node, [layer.source for layer in layers])
        except PolicyError as error:
            faults += (Fault(problem.place, problem.message) for problem in error.problems)
            return []
    return layers


def _extended(node: Node, chain: list[Source]) -> Source:
    """What the last policy of the chain extends. Raises PolicyError where that cannot be."""
    said, by = node.value, chain[-1]
    if not isinstance(said, str) or not said:
        raise _fault(node, by, f"extends must be the name of a shipped policy or a path, got {node}")
    if _BARE_NAME.fullmatch(said):
        source = Source.shipped(said)
        if source is None:
            near = nearest(said, _all_shipped())
            raise _fault(node, by, f"no policy '{said}' is shipped{near} (a file is written ./{said})")
        source = Source(source.text, f"midcourse/configs/{source.name}", source.path, source.folder)
    else:
        source = _file(node, by, said)
    names = ", ".join((*(each.name for each in chain), source.name))
    if any(each.path and source.path and each.path.samefile(source.path) for each in chain):
        raise _fault(node, by, f"extends goes round in a circle: {names}")
    if len(chain) >= MAX_FILES:
        raise _fault(node, by, f"a policy extends through at most {MAX_FILES} files: {names}")
    return source


def _all_shipped() -> list[str]:
    """The bare names of all policies in ``configs/``, where other YAML lies, too."""
    named = [Path(each.name).stem for each in _SHIPPED.iterdir() if each.name.endswith(".yaml")]
    sources = {name: Source.shipped(name) for name in named}
    return [name for name, source in sources.items() if source and "\nversion:" in source.text]


def _file(node: Node, by: Source, said: str) -> Source:
    if by.folder is None:
        raise _fault(node, by, f"extends {node}: a text has no folder, so it can only name a shipped policy")
    path = by.folder / said  # and ask os, which unlike Path has an answer for every text
    if not os.path.isfile(path):
        beside = path.parent.glob("*.yaml") if os.path.isdir(path.parent) else ()
        others = (each.name for each in beside if each.absolute() != by.path)
        raise _fault(node, by, f"extends {node}: there is no such file{nearest(path.name, others)}")
    tidy = Path(os.path.normpath(path))  # another file, if `..` follows a link
    return Source.file(tidy if tidy.exists() and tidy.samefile(path) else path)


def _fault(node: Node, by: Source, message: str) -> PolicyError:
    return PolicyError(by.name, [Fault(node.place, message)])
