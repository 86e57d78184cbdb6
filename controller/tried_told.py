"""A test of a policy in words: what was expected, beside what came."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..policies.expectations import Pair, plain
from .printing import words
from .tried import Tried

SHOWN = 20
"""Differences of one comparison that are told one by one."""

CONTEXT = 2
"""What is as expected is told as far as it stands right before a difference, or at the end."""

_NOTHING = {"decisions": "decided", "verdicts": "judged", "phases": "reached"}


def told(path: Path, tried: Tried) -> str:
    """One test: a line where it passed, and all that differs where it failed."""
    if tried.ok:
        return f"ok      {tried.case.name}"
    lines = [f"FAILED  {tried.case.name}  ({path}:{tried.case.line})"]
    lines += [f"          {problem}" for problem in tried.problems]
    for what, pairs in tried.compared.items():
        if all(pair.ok for pair in pairs):
            continue
        lines += [f"        {what}:", *_side_by_side(what, pairs)]
    lines += [f"        {note}" for note in tried.notes]
    return "\n".join(lines)


def _side_by_side(what: str, pairs: Sequence[Pair]) -> Iterator[str]:
    """All that differs, in order; of a long row that is as expected only the last of it."""
    shown = 0
    for ok, row in groupby(pairs, key=lambda pair: pair.ok):
        told = list(row)
        if ok and len(told) > CONTEXT:
            yield f"          {len(told) - CONTEXT} as expected"
            told = told[-CONTEXT:]
        for pair in told:
            shown += not ok
            if shown <= SHOWN:
                yield from _pair(what, pair)
    if shown > SHOWN:
        yield f"          and {shown - SHOWN} more that differ"


def _pair(what: str, pair: Pair) -> Iterator[str]:
    if pair.said is None:
        assert pair.expected is not None
        where = f"line {pair.expected.line}: expected, not {_NOTHING[what]}"
        yield f"        - {_line(pair.expected.wanted)}    ({where})"
    elif pair.expected is None:
        yield f"        + {_line(pair.said)}    (not expected)"
        yield f"            {pair.said['reason']}"
    elif pair.wrong:
        wanted = {key: pair.expected.wanted[key] for key in pair.wrong}
        shown = _line(pair.said, whole="actions" in pair.wrong)
        yield f"        ! {shown}    (line {pair.expected.line} expects {_wanted(wanted)})"
        if "reason" in pair.said:
            yield f"            {pair.said['reason']}"
    else:
        yield f"          {_line(pair.said)}"


def _line(said: Mapping[str, Any], *, whole: bool = False) -> str:
    """A decision, verdict or phase as far as it is known, without its reason; ``whole``: with parameters."""
    parts = []
    if "tick" in said:
        parts.append(_word("tick", said["tick"]))
    if "rule" in said or "instance" in said:
        instance = said.get("instance")
        parts.append(f"{said.get('rule', 'any rule')}{f'[{instance}]' if instance else ''}")
    parts += [words(said[key]) for key in ("disposition", "result", "phase") if key in said]
    if "rung" in said:
        parts.append(_word("rung", said["rung"]))
    if "actions" in said:
        parts.append(
            _actions(said["actions"]) if whole else ", ".join(map(_name, said["actions"])) or "nothing"
        )
    return "  ".join(parts)


def _wanted(wanted: Mapping[str, Any]) -> str:
    """What of an entry should have been otherwise."""
    return ", ".join(_word(key, value) for key, value in wanted.items())


def _word(key: str, value: Any) -> str:
    shown = plain(value)
    if key == "tick" and isinstance(shown, dict):
        return f"tick {shown['from']} to {shown['to']}"
    if key == "actions":
        return f"the actions {_actions(value)}"
    if key == "reason":
        return f"a reason with '{value}'"
    return f"{key} {shown}" if key in ("tick", "rung", "step", "instance") else str(shown).replace("_", " ")


def _actions(actions: Sequence[Any]) -> str:
    """By name; with parameters where a test names some."""
    return ", ".join(map(_action, actions)) or "nothing"


def _name(action: Any) -> str:
    return action if isinstance(action, str) else next(iter(plain(action)))


def _action(action: Any) -> str:
    name, params = _name(action), None if isinstance(action, str) else plain(action)[_name(action)]
    known = {key: value for key, value in (params or {}).items() if value is not None}
    return f"{name}({', '.join(f'{key}={value}' for key, value in known.items())})" if known else name


def summed_up(tried: Sequence[Tried], broken: Collection[str]) -> str:
    """All tests in one line."""
    failed = sum(not each.ok for each in tried)
    files = f"; {len(broken)} {'file' if len(broken) == 1 else 'files'} cannot be read" if broken else ""
    if not tried:
        return f"no test was run{files}"
    if failed:
        return f"{failed} of {_tests(len(tried))} failed{files}"
    return f"{_tests(len(tried))} passed{files}"


def _tests(count: int) -> str:
    return f"{count} {'test' if count == 1 else 'tests'}"
