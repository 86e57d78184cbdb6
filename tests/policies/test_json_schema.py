"""The JSON Schema allows all that Midcourse reads, finds what it can know of, and describes every key."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from midcourse.monitors.registry import MONITORS
from midcourse.policies import json_schema as describing
from midcourse.policies.actions import ACTIONS
from midcourse.policies.cases import read_cases
from midcourse.policies.document import Node, PolicyError, read_document
from midcourse.policies.json_schema import LANGUAGES, json_schema
from midcourse.policies.policy import parse_policy
from midcourse.policies.shapes import Field, Later, Record

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = ROOT / "configs"
POLICY, TEST = (Draft202012Validator(json_schema(language)) for language in ("policy", "test"))


def plain(text: str) -> Any:
    tree = read_document(text, [])
    assert isinstance(tree, Node)
    return tree.plain


def good_policies() -> Iterator[tuple[str, str]]:
    """All policies that are shipped or stand in the tests, as far as the strict reader takes them."""
    for path in [*CONFIGS.glob("*.yaml"), *HERE.glob("*.yaml")]:
        yield path.name, path.read_text("utf-8")
    for path in sorted(HERE.parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and "version: 1\n" in node.value
            ):
                yield f"{path.name}:{node.lineno}", node.value


def is_read(text: str) -> bool:
    try:
        parse_policy(text)
    except PolicyError:
        return False
    return True


GOOD = [pytest.param(text, id=name) for name, text in good_policies() if is_read(text)]


def complaints(validator: Draft202012Validator, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def test_there_are_policies_to_judge_by() -> None:
    assert len(GOOD) > 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_a_schema(language: str) -> None:
    Draft202012Validator.check_schema(json_schema(language))
    refs = [each["$ref"] for each in parts(json_schema(language)) if "$ref" in each]
    names = {f"#/$defs/{name}" for name in json_schema(language).get("$defs", {})}
    assert set(refs) == names


@pytest.mark.parametrize("text", GOOD)
def test_every_good_policy_is_valid(text: str) -> None:
    assert complaints(POLICY, plain(text)) == []


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.test.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_of_tests_is_valid(path: Path) -> None:
    read_cases(path)
    assert complaints(TEST, plain(path.read_text("utf-8"))) == []


FOUND = [
    "action_parameters",
    "action_unknown",
    "budget",
    "checkpoints",
    "duration",
    "expression_syntax",
    "key_unknown",
    "mode",
    "monitor_names",
    "monitor_parameters",
    "rule_names",
    "snapshots_store",
    "ten_mistakes",
    "verify",
]
"""Bad examples with a mistake that a schema can know of: none in an expression, or between two keys."""


@pytest.mark.parametrize("name", FOUND)
def test_a_bad_policy_is_found_where_the_schema_can_know(name: str) -> None:
    assert complaints(POLICY, plain((HERE / "bad" / f"{name}.yaml").read_text("utf-8")))


def test_a_bad_file_of_tests_is_found() -> None:
    told = complaints(TEST, plain((HERE / "bad_cases" / "every_key.yaml").read_text("utf-8")))
    assert any("'test' was unexpected" in line for line in told)
    assert any("'refuse' is not one of" in line for line in told)


BASE = plain((HERE / "design.yaml").read_text("utf-8"))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(-2, 2), st.just([]), st.just({}),
    st.sampled_from(["this", "loss", "guard.bad", "before_onset", "observe", "stop", "skip", "é", ""]),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


PLACES = list(places(BASE))
NAMES = sorted(
    {str(place[-1]) for place in PLACES if isinstance(place[-1], str)} | {*ACTIONS, "scale", "store", "max"}
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_is_read_is_valid(data: st.DataObject) -> None:
    document = copy.deepcopy(BASE)
    for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
        *path, last = data.draw(st.sampled_from(PLACES))
        try:
            parent = document
            for key in path:
                parent = parent[key]
            match data.draw(st.sampled_from(["set", "drop", "add"])):
                case "set":
                    parent[last] = data.draw(VALUES)
                case "drop":
                    del parent[last]
                case "add":
                    parent[last][data.draw(st.sampled_from(NAMES))] = data.draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken that place away
    text = json.dumps(document)
    event(f"read: {is_read(text)}")
    if is_read(text):
        assert complaints(POLICY, plain(text)) == []


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas in a schema."""
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from parts(part)


def test_every_parameter_of_every_monitor_is_described() -> None:
    monitors = json_schema("policy")["$defs"]["monitors"]["additionalProperties"]["allOf"]
    assert [each["if"]["properties"]["type"]["const"] for each in monitors] == list(MONITORS)
    for each in monitors:
        for name, parameter in each["then"]["properties"].items():
            assert parameter.get("description"), f"{each['if']}: its class says nothing of '{name}'"


def test_every_action_is_there() -> None:
    ladder = json_schema("policy")["$defs"]["ladder"]
    assert list(ladder["items"]["items"]["properties"]) == list(ACTIONS)


def test_a_key_that_is_read_later_and_not_described_is_found() -> None:
    with pytest.raises(LookupError, match="needs a kind"):
        Record({"new": Field(Later(), None)}).schema()


def test_a_key_without_words_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    language = describing._LANGUAGES["policy"]
    words = {key: said for key, said in language.words.items() if key not in ("rules.for", "ladder.stop")}
    monkeypatch.setitem(describing._LANGUAGES, "policy", language._replace(words=words))
    with pytest.raises(LookupError, match=r"no words for rules\.for, ladder\.stop$"):
        json_schema("policy")


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_words_describe_a_key_that_is_gone(language: str) -> None:
    known = {each.get("description") for each in parts(json_schema(language))}
    unused = [key for key, said in describing._LANGUAGES[language].words.items() if said not in known]
    assert not unused
