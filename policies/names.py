"""Names of a policy: which signals exist, and which name was meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from ..monitors.types import BUILTIN_SIGNALS, SOURCE_PREFIX, SUPPLY_PREFIX


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The end of an error message: ``: did you mean 'grad_norm'?``, or nothing if no name is near."""
    found = get_close_matches(name, sorted(candidates), n=1, cutoff=0.6)
    return f": did you mean '{found[0]}'?" if found else ""


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals that a policy may name: the built-in ones, each source's loss, and those it declares."""

    declared: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        """Whether a signal of this name can be measured; a name with a star stands for all that match."""
        return name in self.plain or any(matches(name, pattern) for pattern in self.patterns)

    @property
    def plain(self) -> tuple[str, ...]:
        """The names without a star."""
        return (*BUILTIN_SIGNALS, *(name for name in self.declared if "*" not in name))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names with a star; the built-in ones are every source's loss and supply."""
        return (f"{SOURCE_PREFIX}*", f"{SUPPLY_PREFIX}*", *(name for name in self.declared if "*" in name))

    def unknown(self, name: str) -> str:
        """What to say of a name that is none of them."""
        near = nearest(name, self.patterns if "*" in name else self.plain)
        own = " (your own are declared under 'signals')" if "/" in name or not near else ""
        return f"there is no signal '{name}'{near}{own}"


def matches(name: str, pattern: str) -> bool:
    """Whether a name is this one, or where the pattern has a star, one that it stands for."""
    if "*" not in pattern:
        return name == pattern
    before, _, after = pattern.partition("*")
    return len(name) > len(before + after) and name.startswith(before) and name.endswith(after)
