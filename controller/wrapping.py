"""The two added lines' other half: what is instrumented on the user's Accelerator, and on nothing else.

Only the instance is patched, so other Accelerators, and Accelerate itself, stay as they are; ``release``
puts the instance back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from torch.utils.data import DataLoader

from .desk import Desk
from .loader import WatchedLoader

Original = Callable[..., Any]
"""A method of the user's Accelerator or optimizer."""


class Listener(Desk, Protocol):
    """Told of what happens in the loop, as it happens."""

    def prepared(self, optimizers: list[Any], schedulers: list[Any], loaders: list[WatchedLoader]) -> None:
        """``accelerator.prepare`` has returned these."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """``accelerator.backward`` was given this loss."""
        ...

    def clipped(self, norm: torch.Tensor | float | None) -> None:
        """``accelerator.clip_grad_norm_`` returned this norm."""
        ...

    def step_raised(self) -> None:
        """The optimizer's step raised, so that it will not be reported as done."""
        ...

    def survives(self, error: Exception) -> bool:
        """Whether the training goes on, unwatched, though a follower has raised this; else it is raised."""
        ...

    def loaded(self, folder: str | None) -> None:
        """``accelerator.load_state`` has put another state in place."""
        ...

    def freed(self) -> None:
        """``accelerator.free_memory`` is called: what was prepared is to be forgotten."""
        ...

    def close(self) -> None:
        """``accelerator.end_training`` was called."""
        ...


class Follower(Protocol):
    """Follows an optimizer's steps."""

    def before_step(self, *, closure: bool) -> None:
        """The inner optimizer's step begins; with a closure it evaluates the loss inside."""
        ...

    def after_step(self) -> None:
        """The inner optimizer's step is done."""
        ...


def is_instrumented(accelerator: Any) -> bool:
    """Whether a controller that was not closed holds this accelerator."""
    method = vars(accelerator).get("backward")
    return isinstance(method, MethodType) and method.__func__.__module__ == __name__


class Wrapping:
    """Instruments an Accelerator for a listener.

    Args:
        accelerator: The user's.
        listener: Told of everything; a proxy for a loader is made with it as desk.
    """

    def __init__(self, accelerator: Any, listener: Listener) -> None:
        self._accelerator = accelerator
        self._listener = listener
        self._patched: list[tuple[Any, str, MethodType]] = []
        self._hooks: list[Any] = []
        self._depth = 0
        self._preparing = False
        for name in ("prepare", "prepare_data_loader", "prepare_optimizer", "prepare_scheduler"):
            self._patch(accelerator, name, _led_by(self._prepare))
        self._patch(accelerator, "backward", self._backward)
        self._patch(accelerator, "clip_grad_norm_", self._clip)
        self._patch(accelerator, "skip_first_batches", _led_by(self._skip_first_batches))
        self._patch(accelerator, "load_state", _led_by(self._load_state))
        self._patch(accelerator, "free_memory", _led_by(self._free_memory))
        self._patch(accelerator, "end_training", _led_by(self._end_training))

    def steer(self, optimizer: Any, follower: Follower) -> None:
        """Have the steps of this prepared optimizer followed."""
        inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        self._hooks = [
            inner.register_step_pre_hook(partial(self._before_step, follower)),
            inner.register_step_post_hook(partial(self._after_step, follower)),
        ]
        self._patch(optimizer, "step", self._step)

    def let_go(self) -> None:
        """Follow the optimizer's steps no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._unpatch([patched for patched in self._patched if patched[0] is not self._accelerator])

    def release(self) -> None:
        """Put the accelerator and the optimizer back as they were."""
        self.let_go()
        self._unpatch(list(self._patched))

    def _unpatch(self, patched: list[tuple[Any, str, Any]]) -> None:
        for owner, name, method in patched:
            if owner.__dict__.get(name) is method:
                del owner.__dict__[name]
            self._patched.remove((owner, name, method))

    def _patch(self, owner: Any, name: str, instrument: Callable[[Original], Original]) -> None:
        # A bound method, as it was: torch's schedulers wrap the function inside an optimizer's ``step``.
        method = MethodType(instrument(getattr(owner, name)), owner)
        setattr(owner, name, method)
        self._patched.append((owner, name, method))

    def _prepare(self, original: Original, *args: Any, **kwargs: Any) -> Any:
        if self._preparing:
            return original(*args, **kwargs)
        self._preparing = True
        try:
            result = original(*args, **kwargs)
        finally:
            self._preparing = False
        several = isinstance(result, (tuple, list))  # with FSDP2 it is a list
        parts = result if several else (result,)
        watched = [self._watch(part) if isinstance(part, DataLoader) else part for part in parts]
        self._listener.prepared(
            [part for part in watched if isinstance(part, AcceleratedOptimizer)],
            [part for part in watched if isinstance(part, AcceleratedScheduler)],
            [part for part in watched if type(part) is WatchedLoader],
        )
        return type(result)(watched) if several else watched[0]

    def _watch(self, loader: Any) -> WatchedLoader:
        return loader if type(loader) is WatchedLoader else WatchedLoader(loader, self._listener)

    # What is called at every tick leads to the listener without a call in between.

    def _backward(self, original: Original) -> Original:
        listener = self._listener

        def instrumented(_: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
            listener.backward(loss)
            return original(loss, *args, **kwargs)

        return instrumented

    def _clip(self, original: Original) -> Original:
        listener = self._listener

        def instrumented(_: Any, *args: Any, **kwargs: Any) -> Any:
            norm = original(*args, **kwargs)
            listener.clipped(norm)
            return norm

        return instrumented

    def _step(self, original: Original) -> Original:
        def instrumented(_: Any, *args: Any, **kwargs: Any) -> Any:
            self._depth = 0
            try:
                return original(*args, **kwargs)
            except BaseException:
                self._listener.step_raised()
                raise

        return instrumented

    def _before_step(self, follower: Follower, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A subclass's step that calls its parent's runs torch's hooks once for each of them.
        self._depth += 1
        if self._depth == 1:
            # The first argument is the optimizer; of the others one may be a closure.
            plain = not kwargs and args[1:] == (None,)  # as Accelerate calls it
            closure = not plain and True in map(callable, (*args[1:], kwargs.get("closure")))
            try:
                follower.before_step(closure=closure)
            except Exception as error:
                if not self._listener.survives(error):
                    raise

    def _after_step(self, follower: Follower, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            try:
                follower.after_step()
            except Exception as error:
                if not self._listener.survives(error):
                    raise

    def _skip_first_batches(self, original: Original, dataloader: Any, num_batches: int = 0) -> Any:
        if type(dataloader) is not WatchedLoader:
            return WatchedLoader(original(dataloader, num_batches), self._listener)
        rest = original(dataloader.__wrapped__, num_batches)
        return WatchedLoader(rest, self._listener, dataloader, num_batches)

    def _load_state(self, original: Original, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        folder = args[0] if args else kwargs.get("input_dir")
        self._listener.loaded(None if folder is None else str(folder))
        return result

    def _free_memory(self, original: Original, *args: Any, **kwargs: Any) -> Any:
        self._listener.freed()
        return original(*args, **kwargs)

    def _end_training(self, original: Original, *args: Any, **kwargs: Any) -> Any:
        self._listener.close()
        return original(*args, **kwargs)


def _led_by(wrapper: Callable[..., Any]) -> Callable[[Original], Original]:
    """Instruments a method: ``wrapper`` is called in its place, with the method before its arguments."""

    def instrument(original: Original) -> Original:
        def instrumented(_: Any, *args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        return instrumented

    return instrument
