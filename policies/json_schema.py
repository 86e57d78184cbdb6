"""The policy language, and that of test files, as JSON Schema: for editors, and for other programs.

Made from the tables that read them, so that what is added there appears here by itself. A schema allows all
that Midcourse reads; what it cannot say (expressions, the ranges of a monitor's parameters, what contradicts
what) is found by ``midcourse check``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import descriptions
from .cases import cases_schema
from .schema import policy_schema
from .shapes import Schema


class _Language(NamedTuple):
    title: str
    schema: Callable[[], Schema]
    words: Mapping[str, str]


_LANGUAGES = {
    "policy": _Language("A policy of Midcourse", policy_schema, descriptions.POLICY),
    "test": _Language("Tests of a policy of Midcourse", cases_schema, descriptions.TEST),
}
LANGUAGES = tuple(_LANGUAGES)
"""What can be described."""

_PARTS = ("items", "additionalProperties")


def json_schema(language: str = "policy") -> Schema:
    """The schema of a language, with a description of every key.

    Raises:
        LookupError: a key is not described.
    """
    title, make, words = _LANGUAGES[language]
    schema = make()
    missing: list[str] = []
    _describe(schema, "", words, missing)
    if missing:
        raise LookupError(f"policies/descriptions.py has no words for {', '.join(missing)}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _describe(schema: Schema, path: str, words: Mapping[str, str], missing: list[str]) -> None:
    """Add the words of every key; the parts that ``$ref`` points to begin at their own names."""
    for name, part in schema.get("$defs", {}).items():
        _describe(part, f"{name}.", words, missing)
    for name, part in schema.get("properties", {}).items():
        key = path + name
        if key in words:
            part["description"] = words[key]
        elif "description" not in part:
            missing.append(key)
        _describe(part, f"{key}.", words, missing)
    for part in [*(schema.get(each) for each in _PARTS), *schema.get("anyOf", ())]:
        if isinstance(part, dict):
            _describe(part, path, words, missing)
