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

_MERGED = ("monitors", "regulators", "limits")
"""Sections that are merged with those of what a policy extends, and need keys where it extends nothing."""

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
    if language == "policy":
        schema = _extending(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _extending(schema: Schema) -> Schema:
    """Let a policy that extends another say only what it changes, and take away what it does not want."""
    rule = schema["$defs"]["rules"]["items"]
    changed = {
        **rule,
        "properties": {
            **{name: {"anyOf": [part, {"type": "null"}]} for name, part in rule["properties"].items()},
            "name": rule["properties"]["name"],
            "remove": {"const": True, "description": "Takes the rule away that is extended."},
        },
        "required": ["name"],
    }
    parts = {"rules": {"type": ["array", "null"], "items": changed}}
    parts |= {name: {"type": ["object", "null"]} for name in _MERGED if name in schema["properties"]}
    whole = {name: schema["properties"][name] for name in parts}
    words = {name: {"description": part["description"]} for name, part in whole.items()}
    return {
        **{key: part for key, part in schema.items() if key != "required"},
        "properties": {**schema["properties"], **words},
        "if": {"properties": {"extends": {"type": "string"}}, "required": ["extends"]},
        "then": {"properties": parts},
        "else": {"properties": whole, "required": schema["required"]},
    }


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
