"""The table of laws: what a regulator's ``law`` names."""

from __future__ import annotations

from .excess_loss import ExcessLoss
from .group_dro import GroupDro
from .law import Law
from .online_mixing import OnlineMixing
from .proportional import Proportional

LAWS: dict[str, type[Law]] = {
    "group_dro": GroupDro,
    "online_mixing": OnlineMixing,
    "excess_loss": ExcessLoss,
    "proportional": Proportional,
}
"""Law in a policy -> class. ``conformance`` tests every one of them."""
