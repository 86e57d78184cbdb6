"""Before a fork is started: what is amended, from which checkpoint it goes on, in which folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ...policies.amendments import Amendments
from ...policies.evidence import labelled
from ...policies.limits import LIMITS
from ...policies.names import nearest
from ...policies.policy import PolicyError, parse_policy
from ...policies.types import Decision, Disposition
from ..durable.manifest import FOLDER, DamagedCheckpoint, Manifest, facts_of, read_manifest
from ..journal.copy import copy_until
from ..journal.place import JOURNAL_FILE
from ..journal.reader import JournalReader
from .course import Span
from .order import ForkError

_SHOWN = 20


def amend(
    decisions: Sequence[Decision],
    policy_text: str,
    of: str,
    without: Sequence[str],
    instead: Mapping[str, int],
) -> tuple[Amendments, Decision]:
    """What a fork is to decide otherwise, and the first decision of the run that this concerns.

    Args:
        decisions: The run's.
        policy_text: The policy that it was under.
        of: The run, as people call it.
        without: Ids, rules, or instances of rules, to be withheld.
        instead: Rungs to be taken, by id.

    Raises:
        ForkError: nothing is to be amended, or the run took no such act; all mistakes at once.
    """
    acts = [each for each in decisions if each.disposition is Disposition.ACT and each.rule != LIMITS]
    if not without and not instead:
        raise ForkError("say what is to be left out (without) or done instead; " + _acts_of(acts))
    problems: list[str] = []
    first: list[Decision] = []
    for name in without:
        found = [each for each in acts if name in _names(each)]
        if found:
            first.append(found[0])
        else:
            problems.append(_unknown(name, acts, decisions))
    for id, rung in instead.items():
        found = [each for each in acts if each.id == id]
        first += found[:1]
        if not found:
            problems.append(_unknown(id, acts, decisions))
        elif mistake := _no_rung(found[0], rung, policy_text):
            problems.append(mistake)
    both = {id for id in instead for each in acts if each.id == id and not _names(each).isdisjoint(without)}
    problems += [f"{id} is both to be left out and to take another rung" for id in sorted(both)]
    if problems:
        raise ForkError("\n".join([*problems, _acts_of(acts)]))
    return Amendments(of, frozenset(without), dict(instead)), min(first, key=lambda each: each.tick)


def _names(decision: Decision) -> set[str]:
    return {decision.id, decision.rule, labelled(decision.rule, decision.instance)}


def _unknown(name: str, acts: Sequence[Decision], decisions: Sequence[Decision]) -> str:
    for each in decisions:
        if name == each.id and each.rule == LIMITS:
            return f"{name} is decided by the policy's limits, not by a rule: change them in the policy"
        if name == each.id:
            what = each.disposition.value.replace("_", " ")
            return f"{name} was no act ({what}): it changed nothing that could be left out"
    return f"the run took no act '{name}'" + nearest(name, {known for each in acts for known in _names(each)})


def _acts_of(acts: Sequence[Decision]) -> str:
    if not acts:
        return "the run took no act at all"
    more = f", and {len(acts) - _SHOWN} more" if len(acts) > _SHOWN else ""
    return f"its acts: {', '.join(each.id for each in acts[:_SHOWN])}{more}"


def _no_rung(decision: Decision, rung: int, policy_text: str) -> str:
    """Why a rule cannot take a rung; empty where it can."""
    try:
        rules = {rule.name: rule for rule in parse_policy(policy_text, "the run's policy").rules}
    except PolicyError as error:
        return f"the policy of the run cannot be read by this version: {error}"
    last = len(rules[decision.rule].ladder) - 1
    if not 0 <= rung <= last:
        return f"rule '{decision.rule}' has rungs 0 to {last}, got {rung}"
    return f"{decision.id} took rung {rung}: nothing would be done otherwise" if rung == decision.rung else ""


# -- checkpoints ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The checkpoints of a run before a decision, the newest last, and the process life of that one's tick.

    All of them belong to the run's course; the newest was verified byte by byte. ``passed`` says which newer
    ones were passed over, and why.
    """

    manifests: Sequence[Manifest]
    span: Span
    passed: Sequence[str]


def find_start(reader: JournalReader, folder: Path, spans: Sequence[Span], decided: int) -> Start | None:
    """The newest complete checkpoint that was taken before a tick; None: there is none.

    Complete is what a resumed run goes on from: every process' part is there, of one stamp, its bytes those
    of the manifest.
    """
    passed: list[str] = []
    found: list[tuple[Manifest, Span]] = []
    root = folder / FOLDER
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if not path.is_dir():
            continue
        try:
            manifest = _whole(path)
        except DamagedCheckpoint as error:
            passed.append(str(error))
            continue
        span = next((span for span in spans if span.holds(manifest.tick)), None)
        if manifest.tick < decided and span is not None and _on_course(reader, manifest, span, spans):
            found.append((manifest, span))
    found.sort(key=lambda each: (each[0].tick, each[0].written))
    while found:
        newest, span = found[-1]
        try:
            _verify(root / newest.name, newest.world)
        except (DamagedCheckpoint, OSError) as error:
            passed.append(str(error))
            found.pop()
        else:
            return Start([manifest for manifest, _ in found], span, passed)
    return None


def _whole(folder: Path) -> Manifest:
    """Rank 0's manifest, if the parts of all processes belong together."""
    manifest = read_manifest(folder, 0)
    stamps = {read_manifest(folder, rank).stamp for rank in range(manifest.world)}
    if len(stamps) > 1:
        raise DamagedCheckpoint(f"{folder}: its parts were not written at the same time")
    return manifest


def _verify(folder: Path, world: int) -> None:
    for rank in range(world):
        for name, expected in (read_manifest(folder, rank).files or {}).items():
            if facts_of(folder / name) != expected:
                raise DamagedCheckpoint(f"{folder / name}: its checksum is not that of the manifest")


def _on_course(reader: JournalReader, manifest: Manifest, span: Span, spans: Sequence[Span]) -> bool:
    """Whether the run went on from where this stands: not one of an earlier run in the same folder."""
    following = next((each for each in spans if each.holds(manifest.tick + 1)), span)
    step = reader.step_at(manifest.tick + 1, following.life.number)
    return manifest.written >= spans[0].life.started and step in (None, manifest.step + 1)


# -- the fork's folder ----------------------------------------------------------------------------


def new_folder(run: Path, amendments: Amendments, into: Path | None) -> Path:
    """Make the folder of the fork.

    Raises:
        ForkError: ``into`` exists and is not empty.
    """
    if into is not None:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise ForkError(f"{into} exists: name another folder for the fork")
        into.mkdir(parents=True, exist_ok=True)
        return into
    what = [f"without-{name}" for name in sorted(amendments.withheld)]
    what += [f"instead-{name}={rung}" for name, rung in amendments.instead.items()]
    named = run if run.name not in ("", "..") else run.resolve()
    stem = re.sub(r"[^\w.@=-]+", "-", "-".join([named.name, *what]))[:150]
    for number in count(1):
        folder = named.parent / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def fill(folder: Path, run: Path, reader: JournalReader, start: Start) -> None:
    """Put the checkpoints and the journal up to the newest of them into the fork's folder.

    Files of a checkpoint are never changed once they are written, so they are linked where that is possible;
    the older ones are what a rollback may go to.
    """
    newest = start.manifests[-1]
    for manifest in start.manifests:
        source, target = run / FOLDER / manifest.name, folder / FOLDER / manifest.name
        try:
            shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(".*"))
        except (FileNotFoundError, shutil.Error) as error:  # a run that goes on removes older ones meanwhile
            shutil.rmtree(target, ignore_errors=True)
            if manifest is newest:
                raise ForkError(f"{source} went away while it was copied: try again") from error
    copy_until(reader, folder / JOURNAL_FILE, start.span.life.number, newest.tick)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
