"""Policies, from the outside: the typed values, and how to load them."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from .document import PolicyError as PolicyError
from .document import Problem as Problem
from .document import read_text
from .model import DEFAULT_BUDGET as DEFAULT_BUDGET
from .model import THIS as THIS
from .model import Budget as Budget
from .model import CheckpointFormat as CheckpointFormat
from .model import CheckpointPlan as CheckpointPlan
from .model import LimitResponse as LimitResponse
from .model import Limits as Limits
from .model import Mode as Mode
from .model import Policy as Policy
from .model import Rule as Rule
from .model import Rung as Rung
from .model import SnapshotPlan as SnapshotPlan
from .model import Verify as Verify
from .regulators.law import RegulatorSpec as RegulatorSpec
from .schema import build_policy

_BARE_NAME = re.compile(r"[a-z][a-z0-9-]*")


def load_policy(source: str | Path) -> Policy:
    """Load and check a policy.

    Args:
        source: path of a YAML file, or the bare name of a shipped policy, such as ``baseline``
            (``./baseline`` is a file). Text is never guessed to be YAML: that is ``parse_policy``.

    Raises:
        PolicyError: with every mistake and its place; also where the file cannot be read.
    """
    if isinstance(source, str) and _BARE_NAME.fullmatch(source) and _shipped(source).is_file():
        return packaged_policy(source)
    return build_policy(read_text(Path(source)), str(source))


def parse_policy(text: str, name: str = "<policy>") -> Policy:
    """Check a policy that is at hand as YAML text; ``name`` is what messages call it. Raises PolicyError."""
    return build_policy(text, name)


def packaged_policy(name: str) -> Policy:
    """A policy that is shipped in ``configs/``, by its bare name. Raises ValueError if there is none."""
    if not _BARE_NAME.fullmatch(name) or not _shipped(name).is_file():
        raise ValueError(f"no policy '{name}' is shipped")
    return build_policy(_shipped(name).read_text("utf-8"), f"{name}.yaml")


def _shipped(name: str) -> Traversable:
    return files(f"{__package__.rpartition('.')[0]}.configs").joinpath(f"{name}.yaml")
