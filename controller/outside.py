"""What reaches a run from outside: the kill switch, answers to decisions that wait, an edited policy.

All of it are files, in ``RUN/control`` and the policy's own, so that a person with a shell and a program
without one can do the same. The run looks at them about every second, between two ticks; rank 0 alone does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..monitors.types import SUPPLY_PREFIX
from ..policies.policy import Policy, PolicyError, load_policy
from ..policies.types import Decision, Disposition, Reply
from .journal.place import JournalError, journal_path
from .journal.reader import JournalReader

LOOK_SECONDS = 1.0
"""Between two looks: soon enough for a person, and too seldom to be noticed by the run."""

OFF_VARIABLE = "MIDCOURSE_OFF"
"""While it is set to anything but 0 the process that has it changes nothing."""

_FOLDER = "control"
_OFF = "off"
_WITHDRAW = "withdraw"

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Switch:
    """The kill switch: whether it is ``off``, by what, and whether overrides in force are to be withdrawn."""

    off: bool
    by: str = ""
    withdraw: bool = False


class Outside:
    """Looks at what came from outside.

    Args:
        directory: the run's folder.
        policy: the one in force, whose files are watched.
        environment: variables of the process.
    """

    def __init__(self, directory: Path, policy: Policy, environment: Mapping[str, str] = os.environ) -> None:
        self._folder = directory / _FOLDER
        self._environment = environment
        self._stamp: _Stamp = ()
        self._changing: _Stamp = ()
        self.take(policy)

    def switch(self) -> Switch:
        """How the kill switch stands."""
        if self._environment.get(OFF_VARIABLE, "0") not in ("", "0"):
            return Switch(True, f"the variable {OFF_VARIABLE}")
        file = self._folder / _OFF
        try:
            withdraw = file.read_text("utf-8").strip() == _WITHDRAW
            return Switch(True, f"the file {file}" + (", to withdraw" if withdraw else ""), withdraw)
        except OSError:
            return Switch(False, f"no file {file}")

    def answer(self, decision: Decision) -> tuple[Reply, str] | None:
        """What was said to a decision, and by whom; None so far.

        What was said to other acts under the same name, before the policy was changed, is no answer.
        """
        with suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(_answer_file(self._folder, decision.id).read_text("utf-8"))
            if said.get("actions", _actions_of(decision)) == _actions_of(decision):
                return Reply(said["reply"]), str(said["by"])
        return None

    def forget_answers(self) -> None:
        """The run begins anew: what was said to decisions of an earlier one says nothing of this one's."""
        for file in self._folder.glob("*.json"):
            file.unlink(missing_ok=True)

    def edited(self) -> Policy | PolicyError | None:
        """The policy as its files have it since they were last looked at; what is wrong with it; or None.

        A file that has changed is read only when it has not changed again since the look before: an editor
        may be in the midst of writing it. ``take`` says that the new one is in force.
        """
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return None
        if stamp != self._changing:
            self._changing = stamp
            return None
        self._stamp = stamp
        try:
            policy = load_policy(self._files[0])
        except PolicyError as error:
            return error
        policy = replace(policy, source=self._policy.source)
        return None if policy == self._policy else policy

    def take(self, policy: Policy) -> None:
        """This policy is in force from now on."""
        self._policy = policy
        # One that is at hand as text has no file of its own, whatever it extends.
        own = bool(policy.files) and policy.files[0].name == Path(policy.source).name
        self._files = policy.files if own else ()
        self._stamp = self._changing = _stamp(self._files)


def _stamp(files: Iterable[Path]) -> _Stamp:
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:  # an editor may put another file in its place at this very moment
            stamps.append(None)
    return tuple(stamps)


# What follows is for those outside.


def waiting(run: str | Path) -> list[Decision]:
    """The decisions of a run that wait for approval, oldest first.

    Raises:
        JournalError: there is no journal, or it cannot be read.
    """
    with JournalReader(run) as reader:
        answered = {event.detail["decision"] for event in reader.events() if event.kind == "approval"}
        done = answered | {outcome.decision_id for outcome in reader.outcomes()}
        asked = {
            decision.id: decision
            for decision in reader.decisions()
            if decision.disposition is Disposition.AWAITING_APPROVAL
        }
    return [decision for decision in asked.values() if decision.id not in done]


def approve(run: str | Path, decision: str, by: str = "a program") -> None:
    """Say yes to a decision that waits; the run takes it up within about a second.

    Args:
        run: the run's folder.
        decision: its id, such as ``off-course@1146``.
        by: who says so, for the journal.

    Raises:
        ValueError: no such decision waits.
        JournalError: there is no journal, or it cannot be read.
    """
    _say(run, decision, Reply.YES, by)


def reject(run: str | Path, decision: str, by: str = "a program") -> None:
    """Say no to a decision that waits; otherwise like ``approve``."""
    _say(run, decision, Reply.NO, by)


def switch_off(run: str | Path, *, withdraw: bool = False) -> Path:
    """Keep a run's policy from changing anything, from the next second on; returns the file that says so.

    With ``withdraw`` the overrides that are in force are taken back too.
    """
    file = _folder_of(run) / _OFF
    _write(file, f"{_WITHDRAW}\n" if withdraw else "")
    return file


def switch_on(run: str | Path) -> Path:
    """Let it act again; returns the file that was taken away."""
    file = _folder_of(run) / _OFF
    file.unlink(missing_ok=True)
    return file


def _say(run: str | Path, decision: str, reply: Reply, by: str) -> None:
    asked = {each.id: each for each in waiting(run)}
    if decision not in asked:
        raise ValueError(
            f"no decision {decision!r} waits for approval; waiting: {', '.join(asked) or 'none'}"
        )
    said = {"reply": reply.value, "by": by, "actions": _actions_of(asked[decision])}
    _write(_answer_file(_folder_of(run), decision), json.dumps(said))


def _actions_of(decision: Decision) -> Any:
    """What it would do, as it comes out of JSON."""
    return json.loads(json.dumps(decision.to_json()["actions"]))


def _folder_of(run: str | Path) -> Path:
    path = journal_path(run)
    if not path.is_file():
        raise JournalError(f"{path}: there is no journal")
    return path.parent / _FOLDER


def _answer_file(folder: Path, decision: str) -> Path:
    return folder / f"{quote(decision, safe='@[]')}.json"


def _write(file: Path, text: str) -> None:
    """Complete or not at all: the run may look at any moment."""
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(file)


def difference(before: Policy, after: Policy) -> list[str]:
    """Two policies as a unified diff, line by line."""
    return list(
        unified_diff(before.text.splitlines(), after.text.splitlines(), "before", "after", lineterm="", n=1)
    )


def objections(before: Policy, after: Policy) -> list[str]:
    """What of an edited policy a run that goes on cannot take up; each says what helps."""
    fixed: Mapping[str, tuple[Any, Any]] = {
        "snapshots": (before.snapshots, after.snapshots),
        "checkpoints": (before.checkpoints, after.checkpoints),
        "signals": (before.signals, after.signals),
        "regulators": (before.regulators, after.regulators),
    }
    found = [
        f"'{key}' cannot change while the run goes on: put it back, or start the run again (resume)"
        for key, (old, new) in fixed.items()
        if old != new
    ]
    found += [
        f"'{signal}' is not measured in this run, since its policy did not read it at the start"
        for signal in ("moment_lag", "repeats", f"{SUPPLY_PREFIX}*")
        if after.reads(signal) and not before.reads(signal)
    ]
    if any(rule.before_step for rule in after.rules) and not any(rule.before_step for rule in before.rules):
        found.append("a rule that skips steps cannot be added to a run that began without one")
    return found
