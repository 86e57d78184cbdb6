"""Other parameters for the monitors of a policy, written into its text: comments and layout stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from .document import Node, Place, PolicyError, read_document
from .model import Policy
from .policy import parse_policy

_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line in YAML."""

Parameters = Mapping[str, Mapping[str, float]]
"""Monitor -> parameter -> value."""


class RewriteError(ValueError):
    """A policy whose text cannot be changed in place."""


def with_parameters(policy: Policy, parameters: Parameters) -> str:
    """The text of a policy with other parameters of its monitors.

    A value that is written is replaced; one that is not is put behind the monitor's ``type``. The new text is
    read again, and must be the same policy but for these parameters.

    Raises:
        RewriteError: the text is written in a way that this does not understand.

    >>> text = "version: 1\\nmonitors:\\n  spike: {type: spike, signal: loss}  # a lone bad batch\\n"
    >>> print(with_parameters(parse_policy(text, "p"), {"spike": {"threshold": 12.5}}).splitlines()[2])
      spike: {type: spike, threshold: 12.5, signal: loss}  # a lone bad batch
    """
    document = read_document(policy.text, [])
    monitors = None if document is None else (document.entries or {}).get("monitors")
    edits = []
    for name, values in parameters.items():
        entry = None if monitors is None else (monitors.node.entries or {}).get(name)
        if entry is None:
            raise RewriteError(f"monitor '{name}' is not written in the policy")
        edits += [_edit(policy.text, entry.node, key, value) for key, value in values.items()]
    text = policy.text
    for start, end, words in sorted(edits, reverse=True):
        text = text[:start] + words + text[end:]
    _check(policy, parameters, text)
    return text


def _edit(text: str, monitor: Node, key: str, value: float) -> tuple[int, int, str]:
    """What to put where."""
    entries = monitor.entries or {}
    if key in entries:
        start, end = _span(text, entries[key].node)
        return start, end, _shown(value)
    _, end = _span(text, entries["type"].node)
    if text[_offset(text, monitor.place)] == "{":
        return end, end, f", {key}: {_shown(value)}"
    ends = _BREAK.search(text, end)
    at = ends.start() if ends else len(text)
    indent = " " * (entries["type"].place.column - 1)
    return at, at, f"{ends[0] if ends else chr(10)}{indent}{key}: {_shown(value)}"


def _shown(value: float) -> str:
    """As a policy would write it: a whole number without its point."""
    return f"{value:.15g}"


def _span(text: str, node: Node) -> tuple[int, int]:
    """Where a plain or quoted scalar stands."""
    start = _offset(text, node.place)
    return start, start + len(node.text) + 2 * (node.lead or 0)


def _offset(text: str, place: Place) -> int:
    """The character at a place."""
    at = 0
    for _ in range(place.line - 1):
        ends = _BREAK.search(text, at)
        at = ends.end() if ends else len(text)
    return at + place.column - 1


def _check(policy: Policy, parameters: Parameters, text: str) -> None:
    monitors = tuple(
        replace(spec, params={**spec.params, **parameters.get(spec.name, {})}) for spec in policy.monitors
    )
    try:
        read = parse_policy(text, policy.source)
    except PolicyError as error:
        raise RewriteError(f"the text cannot be changed in place: {error}") from None
    read = replace(read, text=policy.text, files=policy.files, extends=policy.extends)
    if read != replace(policy, monitors=monitors):
        raise RewriteError("the text cannot be changed in place: it would be another policy")
