"""Strict YAML: what words mean, what is refused, and where."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.document import (
    MAX_CHARACTERS,
    Fault,
    Node,
    Place,
    PolicyError,
    read_document,
    read_text,
)
from midcourse.policies.policy import parse_policy


def read(text: str) -> tuple[Node | None, list[Fault]]:
    faults: list[Fault] = []
    return read_document(text, faults), faults


def value_of(word: str) -> object:
    node, faults = read(f"key: {word}")
    assert node is not None
    assert node.entries is not None
    assert faults == []
    return node.entries["key"].node.value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-12", -12),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("9" * 40, 1e40),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("12:30:00", "12:30:00"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_words_mean_what_yaml_1_2_says(word: str, value: object) -> None:
    found = value_of(word)
    assert found == value
    assert type(found) is type(value)


def test_a_nan_is_a_number() -> None:
    assert math.isnan(value_of(".nan"))  # type: ignore[arg-type]


def test_the_key_on_is_a_word() -> None:
    node, _ = read("on: 1\n1: 2\ntrue: 3")
    assert node is not None
    assert node.plain == {"on": 1, "1": 2, "true": 3}


def test_every_value_knows_its_place() -> None:
    node, _ = read('a:\n  - {b: "x y", c: [1]}\n')
    assert node is not None
    first = node.value["a"].node.value[0]  # type: ignore[index,call-overload]
    assert first.place == Place(2, 5)
    assert first.entries["b"].place == Place(2, 6)
    assert first.entries["b"].node.place == Place(2, 9)
    assert first.entries["b"].node.place_of(2) == Place(2, 12)


def test_a_place_inside_folded_or_escaped_text_is_that_of_the_text() -> None:
    node, _ = read('a: >-\n  one\n  two\nb: "t\\x41b"\n')
    assert node is not None
    assert node.entries is not None
    assert node.entries["a"].node.place_of(4) == Place(1, 4)
    assert node.entries["b"].node.place_of(4) == Place(4, 4)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", Place(1, 1), "empty"),
        ("# nothing", Place(1, 1), "empty"),
        ("a: 1\n---\nb: 2", Place(2, 1), "second"),
        ("a: &x 1", Place(1, 4), "anchor"),
        ("a: *x", Place(1, 4), "alias"),
        ("a: &x [*x]", Place(1, 4), "anchor"),
        ("<<: {a: 1}", Place(1, 1), "merge"),
        ("a: !!python/object:os.system 1", Place(1, 4), "tag"),
        ("? [a]\n: 1", Place(1, 3), "a key must be a word"),
        ("a: {b: 1", Place(1, 9), "not YAML"),
        ("a:\n\tb: 1", Place(2, 1), "not YAML"),
        ("a: 1\nb: \x07", Place(2, 4), "U+0007"),
        ("[" * 100_000, Place(1, 33), "nested"),
        ("a: " + "x" * MAX_CHARACTERS, Place(1, 1), "at most"),
    ],
)
def test_what_is_refused_has_a_place(text: str, place: Place, words: str) -> None:
    node, faults = read(text)
    assert node is None
    assert faults[0].place == place
    assert words in faults[0].message


def test_a_quoted_merge_key_is_a_key() -> None:
    node, faults = read('a: "<<"\n"b": 1')
    assert node is not None
    assert faults == []


def test_repeated_keys_are_told_and_the_rest_is_still_read() -> None:
    node, faults = read("a: 1\na: 2\nb: 3\nb: 4")
    assert node is not None
    assert node.plain == {"a": 1, "b": 3}
    assert [fault.place for fault in faults] == [Place(2, 1), Place(4, 1)]


def test_files_that_cannot_be_read_name_a_place(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "binary.yaml").write_bytes(b"version: 1\nx: \xff\xfe")
    (tmp_path / "large.yaml").write_bytes(b"#" * (4 * MAX_CHARACTERS + 1))
    for name, ending in [
        ("missing.yaml", ":1:1: cannot be read: no such file or directory"),
        (".", ":1:1: cannot be read: is a directory"),
        ("binary.yaml", ":2:4: is not UTF-8 text"),
        ("large.yaml", f":1:1: a policy has at most {MAX_CHARACTERS} characters, and this file is larger"),
    ]:
        with pytest.raises(PolicyError) as caught:
            read_text(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}{ending}"


def test_a_byte_order_mark_is_no_character(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "policy.yaml").write_bytes(b"\xef\xbb\xbfversion: 1")
    assert read_text(tmp_path / "policy.yaml") == "version: 1"


@given(st.text(alphabet="ab:-[]{},&*!|>'\"%@`#? \n\t.1e<", max_size=60))
def test_no_text_ends_in_anything_but_a_tree_or_a_fault(text: str) -> None:
    node, faults = read(text)
    assert (node is not None) or faults
    assert all(fault.place.line >= 1 and fault.place.column >= 1 for fault in faults)


def test_an_error_reaches_another_process_whole() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy("version: 2\nrules: 3\n", "far.yaml")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.problems == caught.value.problems
