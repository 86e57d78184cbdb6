"""A run of any tool, from its table: wandb, TensorBoard, MLflow, Lightning, a log of one's own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...monitors.types import Sample
from .columns import Chosen, Layout, hints_of, layout_of, signals_among
from .needs import Needs
from .recording import Chapter, Recording, RecordingError
from .tables import Rows, read_rows

MANY = 20
"""Mistakes of one file that are told one by one."""

LAST_STEP = 2**53
"""Up to here a step that is written as 1e3 or 1000.0 is exact."""


@dataclass(slots=True)
class Track:
    """What was measured, by rising step.

    A step that comes again is measured again: its later cells count, as when training and validation write a
    row each. Where the steps go back, a log was resumed: what it had from there on is an abandoned branch.
    """

    steps: list[int] = field(default_factory=list)
    signals: list[dict[str, float]] = field(default_factory=list)
    abandoned: int = 0
    first_back: tuple[int, int, int] | None = None

    def add(self, line: int, step: int, measured: dict[str, float]) -> None:
        """Take the next row."""
        if self.steps and step < self.steps[-1]:
            at = bisect_left(self.steps, step)
            self.first_back = self.first_back or (line, self.steps[-1], step)
            self.abandoned += len(self.steps) - at
            del self.steps[at:], self.signals[at:]
        if self.steps and step == self.steps[-1]:
            self.signals[-1] |= measured
        else:
            self.steps.append(step)
            self.signals.append(measured)

    def note(self) -> str | None:
        """What to say of a log that was resumed."""
        if self.first_back is None:
            return None
        line, before, after = self.first_back
        return (
            f"line {line}: the steps go back from {before} to {after}, as those of a resumed log do: what "
            f"came later was kept, and {self.abandoned} earlier measured steps were not judged"
        )


def read_log(path: Path, name: str, chosen: Chosen, needs: Needs) -> Recording:
    """Read what a policy needs of a log. An empty cell was not measured; ``nan`` and ``inf`` were.

    Raises:
        RecordingError: with all mistakes of the file.
    """
    table = read_rows(path)
    problems: list[str] = []
    layout = layout_of(table.header, chosen, needs, problems)
    if problems:
        raise RecordingError(f"{path}: {problem}" for problem in problems)
    reading = _Reading(path, table, layout)
    course, names = reading.wide() if layout.tag is None else reading.long(chosen, needs)
    if reading.problems:
        raise RecordingError(reading.problems + reading.others)
    measured = frozenset(signal for signals in course.signals for signal in signals)
    hints = hints_of(names, needs, measured)
    if not measured:
        said = "".join(f"; {hint}" for hint in dict.fromkeys(hints.values()))
        raise RecordingError([f"{path}: nothing that the policy reads was measured{said}"])
    where = "rows are counted: no column is called step, global_step or the like (--step COLUMN)"
    if layout.step is not None:
        where = f"steps are from column '{table.header[layout.step]}'"
    notes = (where, *filter(None, [course.note()]))
    samples = list(map(_sample, course.steps, course.signals))
    return Recording(name, [Chapter(1, lambda: samples)], measured, frozenset(), notes, hints)


def _sample(step: int, signals: dict[str, float]) -> Sample:
    return Sample(step, step, 0, signals)


class _Reading:
    """Reads the rows of a table, and gathers what is wrong in them."""

    def __init__(self, path: Path, table: Rows, layout: Layout) -> None:
        self.problems: list[str] = []
        self._path = path
        self._table = table
        self._layout = layout
        self._wrong = 0

    @property
    def others(self) -> list[str]:
        """How many cells were wrong besides those that are told."""
        return [f"{self._path}: and {self._wrong - MANY} more"] if self._wrong > MANY else []

    def wide(self) -> tuple[Track, list[str]]:
        """A row a step; returns what was measured, and the names of the columns."""
        course, columns = Track(), self._layout.signals.items()
        for line, cells in self._rows():
            measured = {}
            for place, signal in columns:
                value = self._number(line, place, cells[place])
                if value is not None:
                    measured[signal] = value
            if measured:
                step = self._step(line, cells, len(course.steps) + 1)
                if step is not None:
                    course.add(line, step, measured)
        return course, list(self._table.header)

    def long(self, chosen: Chosen, needs: Needs) -> tuple[Track, list[str]]:
        """A row a measurement; returns what was measured, and all tags. Each tag has steps of its own."""
        tag, place = self._layout.tag, self._layout.value
        assert tag is not None
        assert place is not None
        rows = [(line, cells) for line, cells in self._rows() if cells[tag].strip()]
        tags = list(dict.fromkeys(cells[tag].strip() for _, cells in rows))
        wrong: list[str] = []
        signals = {tags[at]: name for at, name in signals_among(tags, chosen, needs, wrong, "tag").items()}
        self.problems += [f"{self._path}: {problem}" for problem in wrong]
        courses: dict[str, Track] = {signal: Track() for signal in signals.values()}
        for line, cells in rows:
            signal = signals.get(cells[tag].strip())
            value = None if signal is None else self._number(line, place, cells[place])
            if signal is not None and value is not None:
                course = courses[signal]
                step = self._step(line, cells, len(course.steps) + 1)
                if step is not None:
                    course.add(line, step, {signal: value})
        return _together(courses), tags

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        try:
            for line, cells in self._table.rows:
                yield line, list(cells)
        except RecordingError as error:
            self.problems += error.problems

    def _number(self, line: int, place: int, cell: str) -> float | None:
        """What was measured; None for an empty cell and for one that is no number, which is told."""
        try:
            if "_" not in cell:  # Python would take 1_000 for a number
                return float(cell)
        except ValueError:
            if not cell.strip():
                return None
        self._complain(line, place, f"'{cell.strip()}' is no number")
        return None

    def _step(self, line: int, cells: list[str], count: int) -> int | None:
        place = self._layout.step
        if place is None:
            return count
        cell = cells[place].strip()
        value = self._number(line, place, cell) if cell else None
        if value is not None and 0 <= value < LAST_STEP and value.is_integer():
            return int(value)
        if value is not None or not cell:
            self._complain(line, place, f"the step must be a whole number, got {cell or 'nothing'}")
        return None

    def _complain(self, line: int, place: int, words: str) -> None:
        self._wrong += 1
        if self._wrong <= MANY:
            self.problems.append(f"{self._path}:{line}: column '{self._table.header[place]}': {words}")


def _together(courses: dict[str, Track]) -> Track:
    """Signals that were read one by one, side by side."""
    merged: dict[int, dict[str, float]] = {}
    for course in courses.values():
        for step, measured in zip(course.steps, course.signals, strict=True):
            merged.setdefault(step, {}).update(measured)
    backs = [course.first_back for course in courses.values() if course.first_back is not None]
    together = Track(abandoned=max((course.abandoned for course in courses.values()), default=0))
    together.first_back = min(backs, default=None)
    for step in sorted(merged):
        together.add(0, step, merged[step])
    return together
