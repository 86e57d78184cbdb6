"""E-detector: a rise whose false alarms have a budget, whatever the noise."""

from __future__ import annotations

from math import exp, log, sqrt
from statistics import NormalDist
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor, at_least
from .calm import BLOCK, Leeway
from .onset import RampStart
from .scale import WARM_UP, make_scale
from .types import Tuned
from .whitening import Whitening
from .window import SortedWindow

_BETS = ((0, 0.5), (1, 1.0), (2, 2.0))
"""Rises bet on, in noises: small ones take long to prove, and 2 is as fast as some hundred ranks allow."""

_WAIT = 16
"""Measurements until one joins what others are compared with: a fault is found before it counts as usual.
Of 37 real divergences 34 are found with it and 24 without; 8, 32 and 64 find as many."""

_normal = NormalDist().inv_cdf


class EDetector(ScaledMonitor):
    """Finds a signal that stays above its level, and keeps a budget of false alarms: a second vote.

    Made to be asked before a costly act: ``when: (blowup.bad or rise.bad) and vote.bad``. Each measurement is
    a bet against chance. Its z is made white (see ``Whitening``); p, from its rank among the last ``window``
    others, says how rare it is, whatever the shape of the noise; e = exp(b y - b^2 / 2) is what a bet on a
    rise of b noises pays, where y is the least of Phi^-1(1 - p), the residual, and z itself, so that nothing
    counts that is below the level, or rare by its rank only. M <- (M + 1) e is what the bets begun at every
    past moment have gained: it alarms where M, in the mean over b of 0.5, 1 and 2, reaches
    ``average_run_length``.

    As no bet gains by chance, M gains in the mean no more than the 1 a measurement that was put in, and the
    mean time to the first false alarm is the budget or more. Ranks are fair as long as the values can be
    exchanged for one another. As each comes to count only ``_WAIT`` later, what those before it have by
    chance is shared by a whole row of bets: y is divided by sqrt(1 + 2 _WAIT / (ranks + 1)), which makes up
    for it. Measured with budgets of 1000 and 10 000, the time is 1.8 times the budget or more, for noise of
    many shapes and correlations; where correlation lasts long, or values are few, it is less than the budget:
    ``benchmarks/average_run_length.py``.

    The alarm clears where M falls below the root of the budget; M stops at its power 3/2, so that it does so
    soon. The onset is the beginning of the bet that has gained the most, or of a ramp fitted to the window,
    if that is earlier.

    Args:
        signal: the signal's name.
        average_run_length: mean measurements from one false alarm to the next, at least. 1e6 takes four or
            five measurements that are far out, and a tenth of that hardly fewer.
        window: previous values that level, noise, ranks and correlation come from.
        warm_up: measurements before it judges.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    Source: J. Shin, A. Ramdas, A. Rinaldo, E-detectors: a nonparametric framework for sequential change
    detection, New England Journal of Statistics in Data Science (2023). The sum is that of A. N. Shiryaev
    (1963) and S. W. Roberts (1966); bets on ranks: V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in
    a Random World (2005).

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, vote = Random(0), EDetector("loss")
    >>> for tick in range(300):
    ...     reading = vote.update(Sample(tick, tick, 0, {"loss": noise.gauss(2, 0.1) + 0.4 * (tick >= 280)}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (284, 279)
    """

    tuned = Tuned("average_run_length", power=True)
    step_noises = 3.0
    step_delay = 20
    lateness = 20
    _state: ClassVar[tuple[str, ...]] = (
        *(
            *ScaledMonitor._state,
            "_whitening",
            "_ranks",
            "_waiting",
            "_sums",
            "_gains",
            "_since",
            "_onset",
            "_start",
        ),
    )

    def __init__(
        self,
        signal: str,
        *,
        average_run_length: float = 1e6,
        window: int = 512,
        warm_up: int = WARM_UP,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        at_least("average_run_length", 100, average_run_length)
        super().__init__(signal, make_scale(signal, window, warm_up, log), average_run_length, stale_after)
        self.false_alarms_per_100k = 1e5 / average_run_length
        self._most = average_run_length**1.5
        self._clears = sqrt(average_run_length)
        self._window = window
        self._whitening = Whitening(window)
        self._ranks = SortedWindow()  # of residuals
        self._waiting: list[tuple[float, float]] = []  # z and residual of the newest
        self._start = RampStart(window)
        self._onset: int | None = None
        self._forget()

    def _leeway(self) -> Leeway | None:
        """No bet is told more than z, nor loses.

        After so many measurements the sum of a bet on b noises is at most its sum now and one for each, times
        exp(b r), where r is what the z are above b / 2 together: for b of 1 and 2 no more than what they are
        above 1/2, for b of 1/2 a quarter each more than that.
        """
        if self._onset is not None:
            return None
        room = log(self.threshold / (max(self._sums) + BLOCK))
        return Leeway(slack=0.5, rise=min(room / 2, 2 * room - BLOCK / 4))

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        self._start.add(tick)
        ranks, whitening = self._ranks, self._whitening
        residual = whitening.residual(z)
        y = _normal(ranks.place(residual)) / sqrt(1 + 2 * _WAIT / (len(ranks) + 1))
        if residual < y:
            y = residual
        score = self._bet(tick, z if z < y else y)
        if self._onset is not None:
            if score < self._clears:
                self._onset = None
        elif score < self.threshold:
            waiting = self._waiting
            waiting.append((z, residual))
            if len(waiting) > _WAIT:
                z, residual = waiting.pop(0)
                whitening.learn(z)
                ranks.push(residual, self._window)
        else:
            since = self._since[self._sums.index(max(self._sums))]
            self._onset = self._start.earlier(since, self._scale.values())
            self._waiting.clear()  # what came just before the alarm, and while it lasts, is not usual
        return score, self._onset

    def _bet(self, tick: int, y: float) -> float:
        """Take in what each bet pays; returns M."""
        sums, gains, most = self._sums, self._gains, self._most
        total = 0.0
        for index, rise in _BETS:
            pays = exp(rise * (y - rise / 2))
            sum_ = (sums[index] + 1.0) * pays
            if sum_ > most:
                sum_ = most
            sums[index] = sum_
            total += sum_
            gain = gains[index]  # of the best one of the bets begun so far
            if gain < 1.0:
                self._since[index] = tick
                gain = 1.0
            gain *= pays
            gains[index] = gain if gain < most else most
        return total / len(_BETS)

    def _forget(self) -> None:
        self._sums = [0.0] * len(_BETS)
        self._gains = [0.0] * len(_BETS)
        self._since = [0] * len(_BETS)
        self._onset = None
        self._waiting.clear()
        self._whitening.forget()
        self._start.forget()
