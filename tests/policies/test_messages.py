"""Every message of the policy language is shown by a bad policy, or is named here as tested elsewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import midcourse.policies.policy

HERE = Path(__file__).parent
POLICIES = Path(midcourse.policies.policy.__file__).parent
TOLD = "\n".join(path.read_text("utf-8") for path in sorted((HERE / "bad").glob("*.txt")))
PATTERNS = (
    *("schema*", "shapes*", "document*", "merging*", "extending*", "actions*", "names*"),
    *("expression_compiler", "expression_references"),
)
MODULES = [path for pattern in PATTERNS for path in sorted(POLICIES.glob(f"{pattern}.py"))]

_WORDS = re.compile(r"[a-z]{2,} [a-z]|[a-z] [a-z]{2,}|: did|must")
_CODE = re.compile(r"\(.* (if|and|in) |for i|sum\(|True if")
ELSEWHERE = {
    "characters, and this file is larger": "test_document.py: no such file is kept here",
    "cannot be read": "test_document.py: a file that is not there",
    "a text has no folder": "test_extends.py: only a text that is at hand has none",
    "characters, merged": "test_extends.py: no such file is kept here",
    "a key that is read later needs a kind": "test_json_schema.py: a mistake of the language's own",
    "What kind of monitor it is": "no mistake: what the schema says of a key",
    "cannot be made": "below: no monitor that is shipped does that",
}


def literals(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, words and pattern of each text in a module that is no docstring."""
    passed: set[ast.AST] = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed.update(node.values)
            words = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            pattern = "".join(".*" if word is None else re.escape(str(word)) for word in words)
            yield node.lineno, "".join(str(word) for word in words if word is not None), pattern
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in passed:
            yield node.lineno, node.value, re.escape(node.value)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_message_is_shown_by_a_bad_policy(path: Path) -> None:
    missing = [
        f"{path.name}:{line}: {words}"
        for line, words, pattern in literals(ast.parse(path.read_text("utf-8")))
        if _WORDS.search(words)
        and not _CODE.match(words)
        and not any(told in words for told in ELSEWHERE)
        and not re.search(pattern, TOLD)
    ]
    assert missing == []


def test_a_monitor_that_cannot_be_made_is_a_mistake_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("out of luck")

    monkeypatch.setitem(midcourse.monitors.registry.MONITORS, "guard", Broken)  # type: ignore[arg-type]
    with pytest.raises(midcourse.policies.policy.PolicyError) as caught:
        midcourse.policies.policy.parse_policy("version: 1\nmonitors:\n  one: {type: guard}\n", "p.yaml")
    assert str(caught.value) == "p.yaml:3:8: monitor 'one': cannot be made: RuntimeError: out of luck"
