"""Which column of a log is the step, and which are the signals that a policy reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...policies.names import nearest
from .needs import Needs

STEPS = (
    "step", "global_step", "trainer/global_step", "train/global_step", "training_step",
    "iteration", "iter", "_step",
)  # fmt: skip
"""Usual names of the step, the surest first, in any case; ``_step`` of wandb counts calls of its own."""

TAGS = ("tag", "key", "metric", "name")
VALUES = ("value",)
"""Columns of a long table, a measurement a row: TensorBoard says tag, MLflow key."""

BOUNDS = ("__MIN", "__MAX")
"""Ends of columns that wandb exports beside each signal; not measurements of their own."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the user says of columns: that of the step, and signal -> column."""

    step: str | None = None
    signals: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Layout:
    """Where things stand: column numbers. ``step`` None means that rows are counted.

    A wide table has ``signals``, name by column. A long one has ``tag`` and ``value`` columns instead.
    """

    step: int | None
    signals: dict[int, str] = field(default_factory=dict)
    tag: int | None = None
    value: int | None = None


def layout_of(header: Sequence[str], chosen: Chosen, needs: Needs, problems: list[str]) -> Layout:
    """Find the columns; what is unknown or ambiguous is added to ``problems``."""
    usable = {place: name for place, name in enumerate(header) if not name.endswith(BOUNDS)}
    step = _step(usable, chosen, problems)
    layout = Layout(step, {})
    mistakes: list[str] = []
    found = signals_among([usable.get(place, "") for place in range(len(header))], chosen, needs, mistakes)
    layout.signals = {place: name for place, name in found.items() if place != step}
    tag, value = _one_of(usable, TAGS), _one_of(usable, VALUES)
    if not layout.signals and tag is not None and value is not None:
        layout.tag, layout.value = tag, value
    else:
        problems += mistakes
    return layout


def signals_among(
    names: Sequence[str], chosen: Chosen, needs: Needs, problems: list[str], what: str = "column"
) -> dict[int, str]:
    """The signals that the policy reads, by the place of their names: columns, or tags of a long table."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        signal = _short(name)
        if name and signal not in chosen.signals and needs.wants(signal):
            found[signal].append(place)
    for signal, wanted in chosen.signals.items():
        exact = [place for place, name in enumerate(names) if name == wanted]
        found[signal] = exact or [place for place, name in enumerate(names) if _short(name) == wanted]
        if not found[signal]:
            problems.append(f"there is no {what} '{wanted}'{nearest(wanted, filter(None, names))}")
    for signal, places in found.items():
        if len(places) > 1:
            several = ", ".join(f"'{names[place]}'" for place in places)
            problems.append(
                f"{what}s {several} are all {signal}: say which, --signal '{signal}={names[places[0]]}'"
            )
    return {places[0]: signal for signal, places in found.items() if len(places) == 1}


def hints_of(names: Collection[str], needs: Needs, measured: Collection[str]) -> dict[str, str]:
    """For signals that were not found: the column that may be meant, by its last part or its spelling."""
    hints = {}
    free = [name for name in names if name and name not in measured and not name.endswith(BOUNDS)]
    for signal in needs.patterns:
        if signal in measured or "*" in signal:
            continue
        ends = [name for name in free if _short(name).replace(".", "/").rpartition("/")[2] == signal]
        if ends:
            which = " or ".join(f"'{name}'" for name in ends)
            hints[signal] = f"is it {which}? --signal '{signal}={_short(ends[0])}'"
        elif said := nearest(signal, map(_short, free)):
            hints[signal] = said.removeprefix(": ")
    return hints


def read_choice(text: str, needs: Needs) -> tuple[str, str] | str:
    """``SIGNAL=COLUMN`` as the two, or what is wrong with it, in words; both may hold ``=``."""
    parts = text.split("=")
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(len(parts) - 1, 0, -1)]
    for signal, column in splits:
        if signal and column and needs.wants(signal):
            return signal, column
    if not splits:
        return f"--signal must be SIGNAL=COLUMN, got '{text}'"
    signal = splits[-1][0]
    return f"--signal {text}: the policy reads no signal '{signal}'{nearest(signal, needs.patterns)}"


def _step(usable: Mapping[int, str], chosen: Chosen, problems: list[str]) -> int | None:
    if chosen.step is not None:
        places = [place for place, name in usable.items() if chosen.step in (name, _short(name))]
        if not places:
            problems.append(f"there is no column '{chosen.step}'{nearest(chosen.step, usable.values())}")
        return places[0] if places else None
    for usual in STEPS:
        places = [place for place, name in usable.items() if _short(name).casefold() == usual]
        if len(places) > 1:
            several = ", ".join(f"'{usable[place]}'" for place in places)
            problems.append(f"columns {several} may each be the step: say which, --step COLUMN")
        if places:
            return places[0]
    return None


def _one_of(usable: Mapping[int, str], names: Collection[str]) -> int | None:
    places = [place for place, name in usable.items() if name.casefold() in names]
    return places[0] if len(places) == 1 else None


def _short(name: str) -> str:
    """A name without the run that wandb puts before it: ``my-run - train/loss``."""
    return name.rpartition(" - ")[2]
