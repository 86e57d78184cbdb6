"""``extends``: what is merged how, whose mistake it is, and a policy that no longer needs its files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.document import MAX_CHARACTERS, Entry, Node, Place, read_document
from midcourse.policies.merging import merge
from midcourse.policies.policy import Mode, Policy, PolicyError, load_policy, parse_policy
from midcourse.policies.writing import write_document

BASE = """
version: 1
mode: observe
signals: [eval/loss]
snapshots: {keep: 4, every: 50}
monitors:
  rise: {type: sustained_rise, signal: loss, slack: 2}
  blowup: {type: divergence, signal: loss}
rules:
  - name: off-course
    when: rise.bad
    for: 3
    cooldown: 10
    ladder: [[scale_lr: {factor: 0.5}], [stop: {}]]
    verify: {within: 100, expect: rise.ok}
  - name: blown-up
    when: blowup.bad
    ladder: [[stop: {}]]
limits: {acts: 9, per: 100}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def extended(folder: Path, text: str) -> Policy:
    return parse_policy(f"extends: base.yaml\n{text}", "own.yaml", folder)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        extended(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def bare(policy: Policy) -> Policy:
    """What a policy says, without where it comes from."""
    return replace(policy, text="", source="", files=(), extends=())


def test_nothing_of_ones_own_changes_nothing(folder: Path) -> None:
    policy, base = extended(folder, "monitors:\nrules:\nsignals:\n"), load_policy(folder / "base.yaml")
    assert bare(policy) == bare(base)
    assert policy.extends == (str(folder / "base.yaml"),)
    assert (base.extends, base.files) == ((), (folder / "base.yaml",))


def test_mappings_are_merged_key_by_key_and_all_else_is_replaced(folder: Path) -> None:
    policy = extended(folder, "mode: act\nsnapshots: {keep: 8}\nlimits: {acts: 5, then: stop}")
    assert policy.mode is Mode.ACT
    assert (policy.snapshots.keep, policy.snapshots.every) == (8, 50)
    assert policy.limits is not None
    assert (policy.limits.acts, policy.limits.per, policy.limits.then.value) == (5, 100, "stop")
    assert extended(folder, "limits: null\nsnapshots: {every: null}").limits is None


def test_signals_are_added(folder: Path) -> None:
    assert extended(folder, "signals: [acc, eval/loss]").signals == ("eval/loss", "acc")


def test_a_monitor_keeps_what_is_not_changed_unless_its_type_is(folder: Path) -> None:
    [rise, _] = extended(folder, "monitors: {rise: {clip: 5}}").monitors
    assert rise.params == {"signal": "loss", "slack": 2, "clip": 5}
    [rise, _] = extended(folder, "monitors: {rise: {type: sustained_rise, slack: 3}}").monitors
    assert rise.params == {"signal": "loss", "slack": 3}
    [rise, _, new] = extended(
        folder, "monitors: {rise: {type: e_detector, signal: grad_norm}, new: {type: guard}}"
    ).monitors
    assert (rise.type, rise.params, new.name) == ("e_detector", {"signal": "grad_norm"}, "new")


def test_a_rule_keeps_the_keys_that_are_not_written(folder: Path) -> None:
    text = "rules: [{name: off-course, for: 7, ladder: [[stop: {}]], verify: null, cooldown: null}]"
    changed, other = extended(folder, text).rules
    assert (changed.for_measurements, changed.cooldown, changed.verify) == (7, 0, None)
    assert (changed.when.text, len(changed.ladder), other.name) == ("rise.bad", 1, "blown-up")


def test_rules_go_and_come(folder: Path) -> None:
    new = "{name: new, when: rise.bad, ladder: [[stop: {}]]}"
    removed = "{name: off-course, remove: true}"
    assert [rule.name for rule in extended(folder, f"rules: [{new}, {removed}]").rules] == ["blown-up", "new"]
    policy = extended(folder, f"rules: [{removed}]\nmonitors: {{rise: null}}")
    assert [monitor.name for monitor in policy.monitors] == ["blowup"]


def test_what_the_base_lacks_cannot_be_changed(folder: Path) -> None:
    text = "monitors: {ris: {slack: 3}, blowp: null}\nrules: [{name: blown-upp, for: 3}]"
    assert problems(folder, text) == [
        "own.yaml:2:12: what this policy extends has no monitor 'ris' to change or remove:"
        " did you mean 'rise'?",
        "own.yaml:2:29: what this policy extends has no monitor 'blowp' to change or remove:"
        " did you mean 'blowup'?",
        "own.yaml:3:16: what this policy extends has no rule 'blown-upp' to change or remove:"
        " did you mean 'blown-up'?",
    ]


def test_what_goes_wrong_in_the_base_by_a_change_is_told_where_it_stands(folder: Path) -> None:
    assert problems(folder, "monitors: {blowup: null}") == [
        "base.yaml:17:11: rule 'blown-up': when: there is no monitor or signal 'blowup'"
        " (as own.yaml changes it)"
    ]


def test_a_mistake_of_the_base_is_told_once_in_a_chain_of_three(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("slack: 2", "slak: 2").replace("observe", "look"))
    (folder / "middle.yaml").write_text("extends: base.yaml\nmode: act\nsnapshots: {kep: 3}\n")
    (folder / "top.yaml").write_text("extends: ./middle.yaml\nmonitors: {rise: {clip: 4}}\nmoode: act\n")
    with pytest.raises(PolicyError) as caught:
        load_policy(folder / "top.yaml")
    assert [(Path(each.source).name, each.place[:2]) for each in caught.value.problems] == [
        ("top.yaml", (3, 1)),
        ("base.yaml", (3, 7)),
        ("base.yaml", (7, 46)),
        ("middle.yaml", (3, 13)),
    ]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.problems, str(again)) == (caught.value.problems, str(caught.value))


def test_a_policy_that_is_shipped_is_extended_by_its_bare_name() -> None:
    policy, baseline = parse_policy("extends: baseline\nmode: observe"), load_policy("baseline")
    assert bare(policy) == replace(bare(baseline), mode=Mode.OBSERVE)
    assert policy.extends == ("midcourse/configs/baseline.yaml",)
    assert policy.files == baseline.files


def test_a_text_has_no_folder_unless_one_is_named(folder: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy("extends: ./base.yaml", "here")
    assert str(caught.value) == (
        "here:1:10: extends './base.yaml': a text has no folder, so it can only name a shipped policy"
    )
    assert parse_policy("extends: ./base.yaml", "here", folder).rules


def test_the_files_of_a_chain_are_told_the_nearest_first(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "middle.yaml").write_text("extends: ../base.yaml\n")
    (folder / "top.yaml").write_text("extends: deep/middle.yaml\n")
    files = load_policy(folder / "top.yaml").files
    assert files == tuple(folder / name for name in ("top.yaml", "deep/middle.yaml", "base.yaml"))


def test_a_path_through_a_link_leads_where_the_system_says(folder: Path) -> None:
    (folder / "far" / "near").mkdir(parents=True)
    (folder / "far" / "base.yaml").write_text(BASE.replace("keep: 4", "keep: 7"))
    (folder / "link").symlink_to(folder / "far" / "near")
    assert extended(folder, "").snapshots.keep == 4
    linked = parse_policy("extends: link/../base.yaml", "own.yaml", folder)
    assert linked.snapshots.keep == 7


def test_the_text_of_a_policy_needs_no_files(folder: Path) -> None:
    policy = extended(folder, "monitors: {rise: {slack: 1e-1}}\nrules: [{name: off-course, for: 0x10}]")
    (folder / "base.yaml").unlink()
    again = parse_policy(policy.text)
    assert bare(again) == bare(policy)
    assert (again.extends, again.text) == ((), policy.text)
    assert "slack: 1e-1" in policy.text
    assert "extends" not in policy.text


def test_what_is_too_large_once_merged_is_refused(folder: Path) -> None:
    long = MAX_CHARACTERS * 2 // 3
    message = "ladder: [[notify: {message: '%s'}]]"
    base = BASE.replace("ladder: [[stop: {}]]", message % ("x" * long))
    (folder / "base.yaml").write_text(base)
    own = f"rules: [{{name: off-course, {message % ('y' * long)}}}]"
    [problem] = problems(folder, own)
    assert "own.yaml:1:1: a policy has at most 262144 characters, merged 3" in problem


_texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
_keys = _texts.filter(lambda key: key != "<<")  # which no document can have
_nodes = st.recursive(
    st.one_of(
        _texts.map(lambda text: Node(Place(), text, text)),
        st.sampled_from(["1", "1e-4", "0x1F", "true", "~", "null", ".nan", ".inf", "9" * 40]).map(
            lambda word: read_document(f"[{word}]", []).items[0]  # type: ignore[union-attr,index]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: Node(Place(), items)),
        st.dictionaries(_keys, inner, max_size=4).map(
            lambda keys: Node(Place(), {key: Entry(Place(), node) for key, node in keys.items()})
        ),
    ),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _nodes, min_size=1, max_size=4))
def test_what_is_written_reads_the_same(keys: dict[str, Node]) -> None:
    document = Node(Place(), {key: Entry(Place(), node) for key, node in keys.items()})
    again = read_document(write_document(document), faults := [])
    assert faults == []
    assert again is not None
    assert repr(again.plain) == repr(document.plain)


@given(_nodes, _nodes, _nodes)
def test_merging_takes_any_documents(a: Node, b: Node, c: Node) -> None:
    merge(merge(a, b, []), c, [])
    assert merge(a, Node(Place(), {}), []).plain == (
        {} if a.entries is None else {key: value for key, value in a.plain.items() if key != "extends"}  # type: ignore[attr-defined]
    )
