"""All regulators of a policy, side by side: one tick's signals in, what is to be put in force out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .law import Numbers, RegulatorSpec
from .regulator import Regulator


@dataclass(frozen=True, slots=True)
class Move:
    """A regulator wants something else in force: by target, as ``Regulator.ordered`` gives it."""

    regulator: str
    values: dict[str, float] = field(default_factory=dict)


class Regulators:
    """Runs the regulators of a policy. One whose law raises is switched off; what it set stays as it is.

    Args:
        specs: the policy's regulators.
        refused: why some of them cannot work, by name, as far as it is known already.
    """

    def __init__(self, specs: Sequence[RegulatorSpec], refused: Mapping[str, str] | None = None) -> None:
        self.refused = dict(refused or {})
        """Why some do not regulate, by name."""
        self._all = {spec.name: Regulator(spec) for spec in specs if spec.name not in self.refused}
        self._at_work: list[Regulator] = []
        self._failed: set[str] = set()
        self._errors: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def start(self, shares: Numbers | None) -> dict[str, str]:
        """Begin, or go on, with the user's own shares (None: no mixture); returns why some cannot."""
        cannot = {} if self._at_work else dict(self.refused)
        self._at_work = []
        for name, regulator in self._all.items():
            if name in self._failed:
                continue
            try:
                regulator.start(shares)
                self._at_work.append(regulator)
            except ValueError as error:
                cannot[name] = self.refused[name] = str(error)
        return cannot

    def take(self, signals: Numbers) -> list[Move]:
        """Take one tick's signals; returns what is worth putting in force."""
        moves = []
        for regulator in self._at_work:
            try:
                if regulator.take(signals):
                    moves.append(Move(regulator.spec.name, regulator.ordered()))
            except Exception as error:  # noqa: BLE001 - no law may end a training
                self._switch_off(regulator, error)
        return moves

    def ordered(self) -> dict[str, float]:
        """All that is to be in force, by target."""
        return {target: value for each in self._at_work for target, value in each.ordered().items()}

    def shown(self) -> dict[str, dict[str, float]]:
        """What each regulator gives now."""
        return {each.spec.name: each.shown() for each in self._at_work}

    def take_errors(self) -> list[str]:
        """What went wrong since the last call."""
        errors, self._errors = self._errors, []
        return errors

    def state_dict(self) -> dict[str, Any]:
        """All of their state, as JSON."""
        return {each.spec.name: each.state_dict() for each in self._at_work}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; who has none there begins anew. What is switched off stays so."""
        for regulator in self._at_work:
            try:
                regulator.load_state_dict(state.get(regulator.spec.name, {}))
            except Exception as error:  # noqa: BLE001 - nor may a state that it cannot take
                self._switch_off(regulator, error)

    def _switch_off(self, regulator: Regulator, error: Exception) -> None:
        name = regulator.spec.name
        self._failed.add(name)
        self._at_work = [each for each in self._at_work if each is not regulator]
        self._errors.append(f"regulator {name} is switched off: {type(error).__name__}: {error}")
