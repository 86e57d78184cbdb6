"""``online_mixing``: sources are the arms of a bandit, their losses its rewards."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, sqrt
from typing import Any, ClassVar

from ..shapes import Field, Real
from .law import Law, Numbers


class OnlineMixing(Law):
    """Exp3 with a rate of exploration that falls with the number of updates.

    A source's reward is its loss, ``R += loss / (scale * share)``. For K sources, at the t-th update,
    ``eps = min(1/K, sqrt(ln K / (K t)))`` and the shares are ``(1 - K eps) softmax(eps' R) + K eps * own``,
    where ``eps'`` is that of the update before and ``own`` are the user's own shares. In the paper these are
    uniform; here what is explored is the mix that the user wrote.

    Args:
        scale: what a loss is divided by: 10 in the authors' code, so that rewards lie below 1.

    Albalak, Pan, Raffel and Wang: Efficient online data mixing for language model pre-training, 2023 (arXiv
    2312.02406); Auer, Cesa-Bianchi, Freund and Schapire: The nonstochastic multiarmed bandit problem, 2002.

    >>> law = OnlineMixing()
    >>> law.start({"code": 0.5, "docs": 0.5})
    >>> for _ in range(8):
    ...     wanted = law.update({"code": 6.0, "docs": 2.0}, {"code": 0.5, "docs": 0.5})
    >>> {name: round(share, 4) for name, share in wanted.items()}
    {'code': 0.6786, 'docs': 0.3214}
    """

    keys: ClassVar[Mapping[str, Field]] = {"scale": Field(Real(0, 1e6, is_open=True), 10.0)}

    _LEAST_SHARE = 1e-3
    # A share may lie below any that Exp3 itself would give, where the user's own does.

    def __init__(self, scale: float = 10.0) -> None:
        self._scale = scale
        self._own: dict[str, float] = {}
        self._rewards: dict[str, float] = {}
        self._updates = 0

    def start(self, own: Numbers) -> None:
        """Explore this mix."""
        self._own = dict(own)

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        """The reward of what was not measured stays as it is."""
        count = len(now)
        before = self._exploration(count)
        for name, loss in measured.items():
            share = max(now[name], self._LEAST_SHARE)
            self._rewards[name] = self._rewards.get(name, 0.0) + loss / (self._scale * share)
        self._updates += 1
        exploring = count * self._exploration(count)
        scores = {name: before * self._rewards.get(name, 0.0) for name in now}
        highest = max(scores.values())
        grown = {name: exp(score - highest) for name, score in scores.items()}
        total = sum(grown.values())
        return {n: (1.0 - exploring) * grown[n] / total + exploring * self._own.get(n, 0.0) for n in now}

    def _exploration(self, count: int) -> float:
        if not self._updates:
            return 1.0 / count
        return min(1.0 / count, sqrt(log(count) / (count * self._updates)))

    def state_dict(self) -> dict[str, Any]:
        """The rewards so far, and the number of updates."""
        return {"rewards": dict(self._rewards), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._rewards, self._updates = dict(state["rewards"]), state["updates"]
