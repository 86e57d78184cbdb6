"""``excess_loss``: the share of a source grows with how far its loss lies above a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..document import Node
from ..loose_shapes import ByName
from ..shapes import Field, Invalid, Real, Schema, Text
from .law import Law, Numbers
from .shares import exponentiated

_LOSSES = ByName(Real(-1e6, 1e6))


@dataclass(frozen=True, slots=True)
class Reference:
    """A loss for each source, or where they are read from: a JSON file, or the run of a journal."""

    def read(self, node: Node, name: str) -> dict[str, float] | str:
        """The mapping, or the path. Raises Invalid."""
        if isinstance(node.value, str) and node.value:
            return node.value
        if not node.entries:
            message = f"{name} must be losses by source, as in {{code: 1.8}}, or a file or run, got {node}"
            raise Invalid.at(node, message)
        return _LOSSES.read(node, name)

    def schema(self) -> Schema:
        """Numbers by source, or text."""
        return {"anyOf": [Text().schema(), _LOSSES.schema()]}


class ExcessLoss(Law):
    """``w <- w exp(step * max(loss - reference, 0))``, normalised, then a little of the uniform mix.

    Args:
        reference: loss of each source that a finished run reached.
        step: eta an update.
        smoothing: share of the uniform mix, so that no source is lost.

    Xie, Pham, Dong and others: DoReMi: optimizing data mixtures speeds up language model pretraining, NeurIPS
    2023 (arXiv 2305.10429), algorithm 1, with eta 1 and smoothing 1e-3 as there. Two things differ: the
    reference is one number a source, not a model's loss on the same tokens; and the weights steer this run,
    where DoReMi averages those of a proxy run for another.

    >>> law = ExcessLoss({"code": 1.5, "docs": 1.0}, smoothing=0.0)
    >>> wanted = law.update({"code": 2.0, "docs": 0.8}, {"code": 0.5, "docs": 0.5})
    >>> {name: round(share, 4) for name, share in wanted.items()}
    {'code': 0.6225, 'docs': 0.3775}
    """

    keys: ClassVar[Mapping[str, Field]] = {
        "reference": Field(Reference()),
        "step": Field(Real(0, 1000, is_open=True), 1.0),
        "smoothing": Field(Real(0, 1), 1e-3),
    }

    def __init__(self, reference: Numbers, step: float = 1.0, smoothing: float = 1e-3) -> None:
        self._reference = dict(reference)
        self._step = step
        self._smoothing = smoothing

    def start(self, own: Numbers) -> None:
        """Every source needs a reference."""
        if missing := sorted(own.keys() - self._reference.keys()):
            raise ValueError(f"the reference has no loss of {', '.join(missing)}")

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        """What was not measured keeps its share."""
        gains = {
            name: self._step * max(loss - self._reference[name], 0.0)
            for name, loss in measured.items()
            if name in self._reference
        }
        uniform = self._smoothing / len(now)
        return {
            name: (1.0 - self._smoothing) * share + uniform
            for name, share in exponentiated(now, gains).items()
        }
