"""``group_dro``: the share of a source grows with its loss, so that the worst is learnt most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..shapes import Field, Real
from .law import Law, Numbers
from .shares import exponentiated


class GroupDro(Law):
    """Exponentiated gradient ascent on the shares: ``q <- q exp(step * loss)``, normalised.

    Args:
        step: eta an update. The paper's 0.01 a training step, times the 20 ticks of the default cadence.
        smoothing: weight of the newest mean of a source's loss, which is that of the whole cadence already
            and so about as smooth as the average with 0.1 a step that the authors' code keeps.

    Sagawa, Koh, Hashimoto and Liang: Distributionally robust neural networks for group shifts, ICLR 2020
    (arXiv 1911.08731), algorithm 1. There the groups' losses are weighted; here examples are drawn by these
    weights, which gives the same gradient in the mean. Losses are compared as they are: where one source is
    harder for good, it takes all that floor and ceiling leave it; ``excess_loss`` is made for that.

    >>> law = GroupDro(step=0.5, smoothing=1.0)
    >>> wanted = law.update({"code": 2.0, "docs": 1.0}, {"code": 0.5, "docs": 0.5})
    >>> {name: round(share, 4) for name, share in wanted.items()}
    {'code': 0.6225, 'docs': 0.3775}
    """

    keys: ClassVar[Mapping[str, Field]] = {
        "step": Field(Real(0, 1000, is_open=True), 0.2),
        "smoothing": Field(Real(0, 1, is_open=True), 0.5),
    }

    def __init__(self, step: float = 0.2, smoothing: float = 0.5) -> None:
        self._step = step
        self._smoothing = smoothing
        self._losses: dict[str, float] = {}

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        """What was not measured keeps its share: its old loss would raise or lower it for ever."""
        for name, loss in measured.items():
            known = self._losses.get(name, loss)
            self._losses[name] = known + self._smoothing * (loss - known)
        return exponentiated(now, {name: self._step * self._losses[name] for name in measured})

    def state_dict(self) -> dict[str, Any]:
        """The smoothed losses."""
        return {"losses": dict(self._losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._losses = dict(state["losses"])
