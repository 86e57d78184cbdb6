"""The start report tells the smells of the policy, to people and to the journal."""

from __future__ import annotations

from pathlib import Path

from small_loop import train

from midcourse.controller.journal.reader import JournalReader

SMELLY = """version: 1
rules:
  - {name: r, when: loss.z > 6 and loss.z < 3, budget: {acts: 1, per: 9}, ladder: [[stop: {}]]}
"""


def test_smells_are_said_at_start_and_journalled(tmp_path: Path) -> None:
    said: list[str] = []
    train(tmp_path, SMELLY, epochs=1, say=said.append)
    [smell] = [line for line in said if " smell: " in line]
    assert ":3:21: smell: rule 'r': 'when' can never hold" in smell
    with JournalReader(tmp_path) as reader:
        [start] = [event for event in reader.events() if event.kind == "start"]
    assert start.detail["smells"] == [smell]
