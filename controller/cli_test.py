"""``midcourse test``: does a policy decide what is expected of it?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from ..policies.cases import SUFFIX, read_cases
from ..policies.document import Problem
from ..policies.expectations import Pair, plain
from ..policies.extending import shipped_path
from ..policies.policy import PolicyError
from .cli_check import problem_json
from .printing import dumps
from .tried import Tried, carry_out
from .tried_told import summed_up, told


@click.command("test")
@click.argument("paths", nargs=-1, metavar="[FILE|FOLDER...]")
@click.option("-k", "select", metavar="WORDS", help="Only tests whose name holds these words, in any case.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object; what is not finite is null.")
def command(paths: Sequence[str], select: str | None, as_json: bool) -> None:
    """Test policies on written series and recorded runs.

    FILE is YAML: a policy, and tests of it, each a run and the decisions expected on it; a FOLDER stands for
    all *.test.yaml in and below it. Without either it is the present folder. The bare name of a shipped
    policy, such as baseline, stands for its own tests.

    Exits with 0 if all tests pass, with 1 if one fails, with 2 if a file cannot be read or there is none.
    """
    tried: list[tuple[Path, list[Tried]]] = []
    problems: list[Problem] = []
    for path in _files(paths or ["."]):
        try:
            file = read_cases(path)
        except PolicyError as error:
            problems += error.problems
            continue
        words = (select or "").casefold()
        chosen = [case for case in file.cases if words in case.name.casefold()]
        done = []
        for case in chosen:
            done.append(carry_out(file, case))
            if not as_json:
                click.echo(told(path, done[-1]))
        tried.append((path, done))
    count = sum(len(done) for _, done in tried)
    if as_json:
        click.echo(dumps(_document(tried, problems)))
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(
            summed_up([each for _, done in tried for each in done], {each.source for each in problems})
        )
    if problems or not count or any(each.broken for _, done in tried for each in done):
        sys.exit(2)
    sys.exit(0 if all(each.ok for _, done in tried for each in done) else 1)


def _files(paths: Iterable[str]) -> list[Path]:
    """The files of tests that these stand for, each once."""
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        if path.is_dir():
            found |= dict.fromkeys(sorted(_below(path)))
        else:
            shipped = None if path.exists() else shipped_path(text, SUFFIX)
            found[shipped or path] = None
    return list(found)


def _below(folder: Path) -> Iterator[Path]:
    """All files of tests in and below a folder, but for hidden folders, such as an environment's."""
    for inner, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(inner, name) for name in names if name.endswith(SUFFIX))


def _document(tried: Iterable[tuple[Path, list[Tried]]], problems: Iterable[Problem]) -> dict[str, Any]:
    tests = [_test(path, each) for path, done in tried for each in done]
    broken = [{"file": problem.source, **problem_json(problem)} for problem in problems]
    return {
        "ok": bool(tests) and not broken and all(each["ok"] for each in tests),
        "tests": tests,
        "problems": broken,
    }


def _test(path: Path, tried: Tried) -> dict[str, Any]:
    return {
        "file": str(path),
        "line": tried.case.line,
        "name": tried.case.name,
        "ok": tried.ok,
        "problems": list(tried.problems),
        "notes": list(tried.notes),
        **{what: list(map(_pair, pairs)) for what, pairs in tried.compared.items()},
    }


def _pair(pair: Pair) -> dict[str, Any]:
    expected = pair.expected and {"line": pair.expected.line, **plain(pair.expected.wanted)}
    return {
        "ok": pair.ok,
        "expected": expected,
        "got": pair.said and plain(pair.said),
        "wrong": list(pair.wrong),
    }
