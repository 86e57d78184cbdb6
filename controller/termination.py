"""SIGTERM: the run saves itself before it leaves, as a cluster's pre-emption wants it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM ended."""


class Termination:
    """Notes SIGTERM while a run is under way; what was installed before is called, or obeyed, on leaving.

    A second SIGTERM does not wait any more; one that comes before the run is ``armed``, or after it, has
    nothing to save.
    """

    def __init__(self) -> None:
        self.asked = False
        self.armed = False
        self._previous: Any = None
        self._installed = False
        self._process = os.getpid()

    def install(self) -> None:
        """Listen from now on, unless SIGTERM is ignored or this is no main thread."""
        self._previous = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or self._previous is signal.SIG_IGN:
            return
        signal.signal(signal.SIGTERM, self._note)
        self._installed = True

    def release(self) -> None:
        """Put back what was installed before; a handler that calls ours yet is not held up."""
        self.armed = False
        if self._installed and signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, self._previous)
        self._installed = False

    def leave(self) -> NoReturn:
        """End the process as the signal would have. Raises SystemExit."""
        self.release()
        if callable(self._previous):
            self._previous(signal.SIGTERM, None)
        raise SystemExit(EXIT_CODE)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked child (of a pool, say) has no run to save: whoever ends it would wait for it.
            signal.signal(signal.SIGTERM, self._previous)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if self.asked or not self.armed:
            self.leave()
        self.asked = True
