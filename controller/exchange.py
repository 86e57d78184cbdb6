"""How a tick's numbers come from the recorder into a sample: on all processes, and from any device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ..monitors.types import Sample
from .keeping import Keeping
from .norms import Norms, gradient_norm
from .orders import Orders
from .run import Run
from .signals import CONTROL, Recorder, unpack
from .supply import Supply
from .termination import Termination
from .transport import Transport


class Exchange:
    """Packs what was recorded, reduces it over the processes, and reads it, at once or a tick later.

    The flags by which rank 0 announces what all have to do travel in the same vector.

    Args:
        run: Whose processes and device they are.
        recorder: Has gathered the signals.
        norms: Measures parameters and update.
        orders: Has what waits to be done.
        keeping: Knows when the state is to be kept.
        termination: Whether this process is asked to end.
        delayed: Read signals a tick late, so that the device is never waited for.
    """

    def __init__(
        self,
        run: Run,
        recorder: Recorder,
        norms: Norms,
        orders: Orders,
        keeping: Keeping,
        termination: Termination,
        *,
        delayed: bool,
    ) -> None:
        self.delayed = delayed
        self._run = run
        self._recorder = recorder
        self._norms = norms
        self._orders = orders
        self._keeping = keeping
        self._termination = termination
        self._transport = Transport(run.accelerator.device)
        self._vector: torch.Tensor | None = None
        self._alone = run.ranks.world == 1 and not norms.spread

    def measure(self, sample: Sample) -> None:
        """Pack the tick's signals and reduce them; put them into the sample where they are not delayed."""
        run, recorder = self._run, self._recorder
        if recorder.norm is None:
            recorder.grad_norm(gradient_norm(run.optimizer))
        if self._norms.spread:
            recorder.norms(self._norms.take_shares())
        if sample.tick == 1:
            run.ranks.agree(recorder.names)
        # Alone, this process does what it has ordered without being told.
        flags = 0 if self._alone and self._orders.pending is None else self._orders.flags
        since = sample.tick - run.ring.last_tick
        if since >= run.ring.base or run.ring.last_tick < 0 or self._termination.asked:
            flags |= self._keeping.flags
        if self._norms.spread and run.ranks.main:
            flags |= self._norms.flags(sample.tick)
        if self.delayed:
            vector = recorder.device_vector(run.accelerator.device, float(flags))
            self._vector = run.ranks.reduce(vector)
            return
        if self._alone:
            mix = run.mix
            planned = mix.planned if mix is not None and recorder.tells_supply else None
            sample.signals = recorder.measured(planned)
            if flags:
                self._heed(flags)
            return
        sums, counts = recorder.on_host(float(flags))
        if run.ranks.world > 1:
            # NCCL reduces what lies on the device; the round trip is the price of judging before the step.
            packed = torch.tensor([sums, counts], dtype=torch.float64, device=run.accelerator.device)
            sums, counts = run.ranks.reduce(packed).tolist()
        signals = sample.signals = unpack(recorder.names, sums, counts, self._supply())
        if control := signals.pop(CONTROL, 0.0):
            self._heed(control)

    def send(self, sample: Sample, extras: Mapping[str, torch.Tensor]) -> None:
        """What was packed, and scalars measured after it, are on their way into this sample."""
        assert self._vector is not None
        self._transport.send(sample, self._recorder.names, self._vector, extras, self._supply())

    def arrived(self, *, all_of_them: bool = False) -> Iterator[Sample]:
        """Samples whose numbers have come from the device; waits for them if it is to be all."""
        for sample in self._transport.receive(all_of_them=all_of_them):
            if control := sample.signals.pop(CONTROL, 0.0):
                self._heed(control)
            yield sample

    def _supply(self) -> Supply | None:
        mix = self._run.mix
        return self._recorder.supply(mix.planned) if mix is not None and self._recorder.tells_supply else None

    def _heed(self, control: float) -> None:
        """Read rank 0's flags off the control slot (a mean over ranks), and whether any process is to end."""
        flags = round(control * self._run.ranks.world)
        self._orders.heed(flags)
        self._keeping.heed(flags)
        self._norms.heed(flags)
