"""What a forked process is told, in one environment variable that the Controller reads."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...policies.amendments import Amendments

VARIABLE = "MIDCOURSE_FORK"
"""Environment variable that makes of a training command a fork of an earlier run."""


class ForkError(ValueError):
    """A run cannot be forked as asked; the message says why and what helps."""


@dataclass(frozen=True, slots=True)
class ForkOrder:
    """That this process is a fork, and where it begins.

    ``of`` and ``run_dir`` are the folders of the original and of the fork, absolute. ``decision`` is the id
    of the first amended decision, taken at tick ``decided``. ``checkpoint`` is the name of the one that the
    fork goes on from and ``tick`` its tick; None and 0: it begins at the start. ``until`` is the step after
    which it ends, None where the original's loop does.
    """

    of: str
    run_dir: str
    decision: str
    decided: int
    amendments: Amendments
    checkpoint: str | None = None
    tick: int = 0
    until: int | None = None

    @property
    def resume(self) -> str | None:
        """What the Controller resumes, whatever its script says."""
        return None if self.checkpoint is None else f"{self.run_dir}/checkpoints/{self.checkpoint}"

    @property
    def notice(self) -> str:
        """A line of the start report."""
        kept = sorted(self.amendments.withheld)
        said = [f"without {name}" for name in kept]
        said += [f"with rung {rung} at {name}" for name, rung in self.amendments.instead.items()]
        whence = "the start" if self.checkpoint is None else f"checkpoint {self.checkpoint}"
        return (
            f"{VARIABLE} is set: this is a fork of {self.of}, {', '.join(said)}, from {whence}; "
            f"run_dir and resume of the script do not hold, all is kept in {self.run_dir}"
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, as what ``json.dumps`` accepts: the environment variable, and the event ``fork``."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "amendments": self.amendments.to_json()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> ForkOrder:
        """The inverse of ``to_json``."""
        return cls(**{**state, "amendments": Amendments.from_json(state["amendments"])})

    @classmethod
    def given(cls, environment: Mapping[str, str]) -> ForkOrder | None:
        """The order in the environment; None where there is none.

        Raises:
            ForkError: there is one that cannot be read.
        """
        text = environment.get(VARIABLE)
        if text is None:
            return None
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise ForkError(f"{VARIABLE} holds no order of midcourse fork: {error!r}") from error


def free_port(port: int | None) -> int | None:
    """The port, or 0 for any other where it is taken: by the original, as a rule."""
    if port is None:
        return None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
