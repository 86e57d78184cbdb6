"""``fork``: start a run again from before a decision, without it, and tell what the decision changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..journal.place import JournalError
from ..journal.reader import JournalReader
from .command import Command
from .comparison import BEFORE, compare
from .course import Course, amendments_of, decisions_of, order_of, read_course, spans_of
from .order import VARIABLE, ForkError, ForkOrder
from .preparation import Start, amend, fill, find_start, new_folder
from .told import OUTPUT, Told, last_words

NO_CHECKPOINT = (
    "no complete checkpoint of the run was taken before the decision, so the fork begins at the start; "
    "checkpoints: {every: 1000} in the policy lets later forks begin near it"
)

NO_CONTROLLER = "the command ended and had made no Controller; its last words:\n"


def fork(
    run: str | Path,
    without: str | Sequence[str] = (),
    *,
    instead: Mapping[str, int] | None = None,
    command: Sequence[str] = (),
    into: str | Path | None = None,
    until: int | None = None,
    from_start: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> Told:
    """Start a training run again from before a decision, without it, and compare where both end.

    The command that the journal recorded is run as a process of its own, from the newest complete checkpoint
    before the decision, in a new folder beside the run's. The run is only read. What the training script
    itself writes elsewhere, it writes again: ``controller.run_dir`` is the fork's folder there.

    Args:
        run: The run's folder; it may be going on, or have died.
        without: Ids of decisions (``off-course@1146``), names of rules, or of their instances
            (``bad-source[code]``): all acts of these are withheld, as if the rule only observed.
        instead: Rungs to be taken, counted from 0, by the id of a decision.
        command: Another command; default is the one that the journal recorded, in its working directory.
        into: The fork's folder; default is ``RUN-without-ID``, numbered if it exists.
        until: The step after which the fork ends; default is where the loop ends.
        from_start: Begin at the start even where there is a checkpoint, for a loop that cannot be resumed.
        say: Takes a line before the command is started, and what it prints is told in.

    Raises:
        ForkError: there is no such act, or the run cannot be started again; the message tells the remedy.
        JournalError: there is no journal, or it cannot be read.

    Example:
        >>> from midcourse import fork
        >>> print(fork("runs/7", without="off-course@1146"))  # doctest: +SKIP
    """
    asked = (without,) if isinstance(without, str) else tuple(without)
    with JournalReader(run) as reader:
        folder, spans = reader.path.parent, spans_of(reader)
        life = spans[-1].life if spans else None
        if life is None:
            raise ForkError(f"{reader.path}: no process has begun this run")
        decisions = decisions_of(reader, spans)
        amendments, first = amend(decisions, life.policy_text, str(run), asked, instead or {})
        if until is not None and until <= first.step:
            raise ForkError(f"until step {until}: the decision was taken at step {first.step}")
        started = Command.from_facts(life.facts) if not command else None
        line = list(command) if started is None else started.line()
        if shutil.which(line[0]) is None:
            raise ForkError(f"{line[0]}: there is no such program")
        start = None if from_start else find_start(reader, folder, spans, first.tick)
        made = new_folder(folder, amendments, None if into is None else Path(into))
        if start is not None:
            fill(made, folder, reader, start)
        order = ForkOrder(
            of=str(folder.resolve()),
            run_dir=str(made.resolve()),
            decision=first.id,
            decided=first.tick,
            amendments=amendments_of(reader, spans).joined(amendments),
            checkpoint=None if start is None else start.manifests[-1].name,
            tick=0 if start is None else start.manifests[-1].tick,
            until=until,
        )
    say(f"{made}: {order.notice}")
    say(f"its output goes to {made / OUTPUT}")
    code = _carry_out(line, started, order, made)
    return _told(folder, made, order, code, _notes(start, from_start))


def compared(run: str | Path, forked: str | Path) -> Told:
    """Compare a run and its fork again, from their journals alone.

    Raises:
        ForkError: the second is no fork of the first.
        JournalError: a journal cannot be read.
    """
    with JournalReader(forked) as reader:
        order = order_of(reader)
        folder = reader.path.parent
    if order is None:
        raise ForkError(f"{forked} is no fork: its journal does not say of what")
    with JournalReader(run) as reader:
        ours = {each.id for each in decisions_of(reader, spans_of(reader))}
        original = reader.path.parent
    if original.resolve() != Path(order.of) and order.decision not in ours:
        raise ForkError(f"{forked} is a fork of {order.of}, not of {run}")
    return _told(original, folder, order, None, ())


def _notes(start: Start | None, from_start: bool) -> tuple[str, ...]:
    if start is None:
        return () if from_start else (NO_CHECKPOINT,)
    return tuple(f"passed over: {why}" for why in start.passed)


def _carry_out(line: list[str], command: Command | None, order: ForkOrder, folder: Path) -> int:
    """Run the fork's command to its end; returns its exit code. Ended with this process, it saves itself."""
    environment = dict(os.environ) if command is None else command.environment_in(os.environ)
    environment[VARIABLE] = json.dumps(order.to_json())
    with ExitStack() as stack:
        output = stack.enter_context((folder / OUTPUT).open("wb"))
        process = subprocess.Popen(
            line,
            cwd=command.folder if command else None,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _told(run: Path, folder: Path, order: ForkOrder, exit_code: int | None, notes: tuple[str, ...]) -> Told:
    with ExitStack() as stack:
        try:
            theirs = stack.enter_context(JournalReader(folder))
        except JournalError as error:
            raise ForkError(f"{NO_CONTROLLER}{last_words(folder)}") from error
        ours = stack.enter_context(JournalReader(run))
        original = read_course(ours, str(run), max(order.tick - BEFORE, 0))
        forked = read_course(theirs, str(folder), order.tick)
        told = [event.detail for event in theirs.events() if event.kind == "fork"]
        begun = sum(each["run_dir"] == order.run_dir for each in told)
        if not begun:
            raise ForkError(f"{NO_CONTROLLER}{last_words(folder)}")
    comparison = compare(original, forked, order.decided, order.tick)
    return Told(
        order, original, forked, comparison, exit_code, (*notes, *_doubts(order, original, forked, begun))
    )


def _doubts(order: ForkOrder, run: Course, forked: Course, begun: int) -> list[str]:
    """What makes the two differ besides the intervention."""
    doubts = []
    if begun > 1:
        doubts.append(
            f"the command made a Controller {begun} times, each from where the fork begins: this is the last"
        )
    if run.policy_text != forked.policy_text:
        doubts.append("the policy of the fork is not the run's: it was changed since")
    if forked.samples and not any(each.id == order.decision for each in forked.decisions):
        doubts.append(f"{order.decision} never came up in the fork")
    return doubts
