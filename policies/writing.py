"""Writes a document as YAML that reads again to the same values, in the words in which they were written."""

from __future__ import annotations

import yaml

from .document import Node, resolved

_WIDTH = 110
_MAPPING, _SEQUENCE, _SCALAR = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str"))


def write_document(document: Node) -> str:
    """The YAML of a document. What holds scalars only stands on one line, as people write it."""
    written: str = yaml.serialize(
        _written(document), Dumper=yaml.BaseDumper, allow_unicode=True, width=_WIDTH
    )
    return written


def _written(node: Node) -> yaml.Node:
    if node.entries is not None:
        pairs = [(_word(key), _written(entry.node)) for key, entry in node.entries.items()]
        flat = all(isinstance(value, yaml.ScalarNode) for _, value in pairs)
        return yaml.MappingNode(_MAPPING, pairs, flow_style=flat)
    if node.items is not None:
        items = [_written(item) for item in node.items]
        flat = all(isinstance(item, yaml.ScalarNode) for item in items)
        return yaml.SequenceNode(_SEQUENCE, items, flow_style=flat)
    if isinstance(node.value, str):
        return _word(node.text)
    return yaml.ScalarNode(_SCALAR, node.text or "null")


def _word(text: str) -> yaml.Node:
    """Text, in quotes where it would else be read as a number or as nothing.

    What is not printable is escaped, which is only done in double quotes: YAML folds some of it elsewhere.
    """
    quoted = not isinstance(resolved(text), str) or not text.isprintable()
    return yaml.ScalarNode(_SCALAR, text, style='"' if quoted else None)
