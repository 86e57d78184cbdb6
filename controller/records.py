"""What rank 0 keeps of a run: its journal, its metrics, and the pilot that writes both."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from ..policies.policy import Policy
from .forks.order import ForkOrder
from .journal.store import Journal
from .metrics import Metrics
from .outside import Outside
from .pilot import Pilot

log = logging.getLogger("midcourse")

_PACKAGES = ("midcourse", "torch", "accelerate", "numpy", "river")


@dataclass(frozen=True, slots=True)
class Records:
    """An open run. ``port`` is where metrics are served, None where they are not."""

    journal: Journal
    metrics: Metrics
    pilot: Pilot
    port: int | None

    @classmethod
    def open(
        cls,
        policy: Policy,
        directory: Path,
        *,
        sources: Sequence[str],
        registry: CollectorRegistry | None,
        port: int | None,
        facts: Mapping[str, Any],
        clock: Callable[[], float],
        forked: ForkOrder | None = None,
    ) -> Records:
        """Begin an attempt in the run's journal and show it; one that is ``forked`` says so first of all.

        Raises:
            JournalError: the run folder cannot be made, or another process is writing its journal.
        """
        journal = Journal.open(directory)
        for warning in journal.warnings:
            log.warning("%s", warning)
        metrics = Metrics(policy, registry, sources)
        metrics.watch_journal(journal)
        metrics.mode(policy.mode)
        metrics.attempt(
            journal.begin(
                argv=sys.argv,
                policy_text=policy.text,
                policy_source=policy.source,
                mode=policy.mode.value,
                versions={"python": sys.version.split()[0], **{name: version(name) for name in _PACKAGES}},
                facts=facts,
            )
        )
        pilot = Pilot(policy, journal, metrics, clock, Outside(directory, policy))
        if forked is not None:
            pilot.engine.amend(forked.amendments)
            pilot.event("fork", forked.tick, forked.to_json())
        return cls(journal, metrics, pilot, None if port is None else metrics.serve(port))

    def told(self, kind: str, tick: int, detail: Mapping[str, Any]) -> None:
        """Keep and count what became of a durable checkpoint."""
        self.pilot.event(kind, tick, detail)
        if kind == "checkpoint":
            self.metrics.checkpoint(tick, detail["bytes"])
        else:
            self.metrics.error("checkpoint")

    def close(self) -> None:
        """Write what is buffered, and stop serving."""
        self.journal.close()
        self.metrics.close()
