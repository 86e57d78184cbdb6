"""Policies, from the outside: the typed values, and how to load them."""

from __future__ import annotations

from .document import PolicyError as PolicyError
from .document import Problem as Problem
from .model import DEFAULT_BUDGET as DEFAULT_BUDGET
from .model import THIS as THIS
from .model import Budget as Budget
from .model import LimitResponse as LimitResponse
from .model import Limits as Limits
from .model import Mode as Mode
from .model import Policy as Policy
from .model import Rule as Rule
from .model import Rung as Rung
from .model import SnapshotPlan as SnapshotPlan
from .model import Verify as Verify
