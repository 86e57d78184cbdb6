"""Policies, from the outside: the typed values, and how to load them."""

from __future__ import annotations

from pathlib import Path

from .document import PolicyError as PolicyError
from .document import Problem as Problem
from .extending import Source
from .model import DEFAULT_BUDGET as DEFAULT_BUDGET
from .model import THIS as THIS
from .model import Approval as Approval
from .model import Budget as Budget
from .model import CheckpointFormat as CheckpointFormat
from .model import CheckpointPlan as CheckpointPlan
from .model import LimitResponse as LimitResponse
from .model import Limits as Limits
from .model import Mode as Mode
from .model import Policy as Policy
from .model import Quiet as Quiet
from .model import Rule as Rule
from .model import Rung as Rung
from .model import SnapshotPlan as SnapshotPlan
from .model import Verify as Verify
from .regulators.law import RegulatorSpec as RegulatorSpec
from .schema import build_policy


def load_policy(source: str | Path) -> Policy:
    """Load and check a policy.

    Args:
        source: path of a YAML file, or the bare name of a shipped policy, such as ``baseline``
            (``./baseline`` is a file). Text is never guessed to be YAML: that is ``parse_policy``.

    Raises:
        PolicyError: with every mistake and its place, in this file and in what it extends; also where a file
            cannot be read.
    """
    shipped = Source.shipped(source) if isinstance(source, str) else None
    return build_policy(shipped or Source.file(Path(source)))


def parse_policy(text: str, name: str = "<policy>", folder: Path | None = None) -> Policy:
    """Check a policy that is at hand as YAML text. Raises PolicyError.

    Args:
        text: the YAML.
        name: what messages call it.
        folder: where the paths begin that it extends; without one it extends none but shipped policies.
    """
    return build_policy(Source(text, name, folder=folder))


def packaged_policy(name: str) -> Policy:
    """A policy that is shipped in ``configs/``, by its bare name. Raises ValueError if there is none."""
    shipped = Source.shipped(name)
    if shipped is None:
        raise ValueError(f"no policy '{name}' is shipped")
    return build_policy(shipped)
