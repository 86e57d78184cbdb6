"""What a rollback restores of the sensing side: monitors, regulators, and what regulators have in force."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .learning_rate import TARGET
from .mix import target
from .pilot import Pilot
from .run import Run


class Sensing:
    """Monitors and laws are rank 0's alone; what regulators have set, every process knows.

    Args:
        run: What is steered.
        pilot: Has monitors and regulators; None on ranks other than 0.
    """

    def __init__(self, run: Run, pilot: Pilot | None) -> None:
        self._run = run
        self._pilot = pilot

    def state_dict(self) -> dict[str, Any]:
        """State of every monitor and regulator, and the regulators' values in force."""
        state: dict[str, Any] = {} if self._pilot is None else self._pilot.bank.state_dict()
        if self._pilot is not None and self._pilot.regulators:
            state["regulators"] = self._pilot.regulators.state_dict()
        if regulated := in_force(self._run):
            state["regulated"] = regulated
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state over; what it does not hold begins anew, from the user's own values."""
        if self._pilot is not None:
            self._pilot.bank.load_state_dict(state)
            self._pilot.regulators.load_state_dict(state.get("regulators", {}))
        _replace(self._run, state.get("regulated", {}))

    def facts(self) -> dict[str, dict[str, float]]:
        """Present readings as numbers."""
        return {} if self._pilot is None else self._pilot.bank.facts()


def in_force(run: Run) -> dict[str, float]:
    """What regulators have set, by target: a factor on ``lr``, shares by ``weight/NAME``."""
    factor = run.learning_rate.regulated
    shares = {} if run.mix is None else run.mix.regulated
    rate = {} if factor == 1.0 else {TARGET: factor}
    return rate | {target(name): share for name, share in shares.items()}


def put_in_force(run: Run, values: Mapping[str, float]) -> None:
    """Set what regulators want, of the targets that they name.

    The rate holds from the next update on, a share once what is prefetched has been consumed
    (``Mix.follow``): to draw that again would cost more than a regulator's small step is worth.
    """
    if values.get(TARGET, run.learning_rate.regulated) != run.learning_rate.regulated:
        run.expected.announce({TARGET})
    _replace(run, {**in_force(run), **values})


def keep_only(run: Run, targets: Collection[str]) -> None:
    """Give up what regulators have set on other targets: their policy has changed, and they began anew."""
    _replace(run, {name: value for name, value in in_force(run).items() if name in targets})


def _replace(run: Run, values: Mapping[str, float]) -> None:
    run.learning_rate.regulated = values.get(TARGET, 1.0)
    if run.mix is not None:
        names = run.mix.names
        run.mix.regulated = {name: values[target(name)] for name in names if target(name) in values}
