"""What an expression can read of a monitor or signal, and the arithmetic that carries *unknown* as NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import nan
from typing import Any

from ..monitors.types import Health, Reading
from .types import Facts

JUDGED = (Health.OK, Health.WARNING, Health.ALARM, Health.NONFINITE)
TOLD = (Health.WARMUP, *JUDGED)

_BAD = (Health.ALARM, Health.NONFINITE)
HEALTHS = {
    "bad": (_BAD, JUDGED),
    "ok": ((Health.OK,), JUDGED),
    "warning": ((Health.WARNING,), JUDGED),
    "alarm": ((Health.ALARM,), JUDGED),
    "nonfinite": ((Health.NONFINITE,), JUDGED),
    "warmup": ((Health.WARMUP,), tuple(Health)),
    "stale": ((Health.STALE,), tuple(Health)),
    "error": ((Health.ERROR,), tuple(Health)),
}
"""Condition -> the healths where it holds, and those among which it is decided. A monitor that is warming up,
stale or broken has not judged: it is neither bad nor not bad."""

CONDITIONS = frozenset(HEALTHS)
NUMBERS = frozenset({"value", "level", "noise", "z", "ratio", "score", "threshold", "onset"})
FACTS = NUMBERS - {"onset"}
"""What the facts of ``before.*`` and ``target.*`` keep of a reading: its numbers, not its health."""

JUDGEMENTS = frozenset({"bad", "alarm", "warning", "score", "threshold", "onset"})
"""What only a monitor has: nobody judges a bare signal, so these would wait for ever."""


def value(reading: Reading) -> float:
    """The measurement itself: also in warm-up, since it needs no statistics, but not once it is stale."""
    return reading.value if reading.health in TOLD else nan


def level(reading: Reading) -> float:
    """The healthy level."""
    return reading.level if reading.health in JUDGED else nan


def noise(reading: Reading) -> float:
    """The healthy scale."""
    return reading.noise if reading.health in JUDGED else nan


def score(reading: Reading) -> float:
    """The monitor's score."""
    return reading.score if reading.health in JUDGED else nan


def threshold(reading: Reading) -> float:
    """What the score is compared with."""
    return reading.threshold if reading.health in JUDGED else nan


def onset(reading: Reading) -> float:
    """The tick at which the change began."""
    return nan if reading.onset is None or reading.health not in JUDGED else reading.onset


def extra(reading: Reading, name: str) -> float:
    """A number that only some types of monitor tell."""
    if reading.extra is None or reading.health not in JUDGED:
        return nan
    return reading.extra.get(name, nan)


def z(reading: Reading) -> float:
    """How many noises the value lies above the level."""
    if reading.health not in JUDGED:
        return nan
    return divide(reading.value - reading.level, reading.noise)


def ratio(reading: Reading) -> float:
    """The value over the level."""
    return divide(reading.value, reading.level) if reading.health in JUDGED else nan


def fact(facts: Facts, name: str, attribute: str) -> float:
    """The same numbers, of the facts that were kept with a decision or a snapshot."""
    numbers = facts.get(name)
    if numbers is None:
        return nan
    if attribute == "z":
        return divide(numbers.get("value", nan) - numbers.get("level", nan), numbers.get("noise", nan))
    if attribute == "ratio":
        return divide(numbers.get("value", nan), numbers.get("level", nan))
    return numbers.get(attribute, nan)


def is_nan(reading: Reading) -> bool:
    """Whether NaN was measured (a value of NaN before the first measurement is none)."""
    return _measured(reading) and reading.value != reading.value


def is_no_nan(reading: Reading) -> bool:
    """Whether something else than NaN was measured."""
    return _measured(reading) and reading.value == reading.value


def _measured(reading: Reading) -> bool:
    return reading.tick >= 0 and reading.health in TOLD


def divide(a: float, b: float) -> float:
    """``a / b``; unknown for b = 0."""
    return a / b if b else nan


def power(a: float, b: float) -> float:
    """``a ** b``; unknown where it is not real, too large, or of an unknown (Python: 1 ** nan == 1)."""
    return nan if a != a or b != b else _real(math.pow, a, b)


def sqrt(a: float) -> float:
    """Square root; unknown below 0."""
    return _real(math.sqrt, a)


def log(a: float) -> float:
    """Natural logarithm; unknown at 0 and below."""
    return _real(math.log, a)


def exp(a: float) -> float:
    """Exponential; unknown where it is too large for a float."""
    return _real(math.exp, a)


def minimum(*numbers: float) -> float:
    """Smallest; unknown if one is (Python's own depends on their order)."""
    return nan if any(number != number for number in numbers) else min(numbers)


def maximum(*numbers: float) -> float:
    """Largest; unknown if one is."""
    return nan if any(number != number for number in numbers) else max(numbers)


def _real(function: Callable[..., float], *arguments: float) -> float:
    try:
        return function(*arguments)
    except (ValueError, OverflowError):
        return nan


FUNCTIONS: dict[str, tuple[str, int | None]] = {
    "abs": ("abs", 1),
    "sqrt": ("sqrt", 1),
    "log": ("log", 1),
    "exp": ("exp", 1),
    "min": ("minimum", None),
    "max": ("maximum", None),
}
"""Functions of numbers: name -> name in ``NAMESPACE``, and how many arguments (None: two or more)."""

NAMESPACE: dict[str, Any] = {
    "__builtins__": {"abs": abs, "any": any, "all": all, "sum": sum},
    "nan": nan,
    **{f"{name}_holds": holds for name, (holds, _) in HEALTHS.items()},
    **{
        f"{name}_fails": tuple(health for health in decided if health not in holds)
        for name, (holds, decided) in HEALTHS.items()
    },
    **{
        function.__name__: function
        for function in (
            *(value, level, noise, z, ratio, score, threshold, onset, extra, fact, is_nan, is_no_nan),
            *(divide, power, sqrt, log, exp, minimum, maximum),
        )
    },
}
"""All that compiled code can see."""
