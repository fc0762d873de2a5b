"""Where the numbers of metrics.jsonl go besides: TensorBoard, Weights & Biases; extras, on by a setting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import jax

from pini_jax import config as configs
from pini_jax.core import extras
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.task.run import Run


class Writer(Protocol):
    """Receives the numbers of one run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers after a step."""

    def close(self) -> None:
        """Ends the writing."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder; `tensorboard --logdir=WORKDIR` shows all below it."""

    def __init__(self, run: Run, start: int):
        module = extras.require("tensorboardX", "tensorboard")
        # What was written after the step that training goes on from is taken back.
        self._events = module.SummaryWriter(str(run.workdir / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar for every number."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Puts everything on the disk."""
        self._events.close()


class WeightsAndBiases:
    """A run of the project `pini_jax`; with WANDB_MODE=offline all stays in `wandb/` of the run's folder."""

    def __init__(self, run: Run, start: int):
        module = extras.require("wandb", "wandb")
        self._run: Any = module.init(
            project="pini_jax",
            name=run.workdir.name,
            dir=str(run.workdir),
            config=configs.to_dict(run.config),
            reinit="create_new",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the run's history."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Puts everything on the disk, or sends it."""
        self._run.finish(quiet=True)


WRITERS: dict[str, Callable[[Run, int], Writer]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
_chosen: ContextVar[Sequence[str]] = ContextVar("chosen", default=())


@contextlib.contextmanager
def writing_to(names: Sequence[str]) -> Iterator[None]:
    """Runs trained within the block also write there.

    Raises:
        InputError: there is no such writer, or its packages are not installed.
    """
    for name in names:
        if name not in WRITERS:
            raise InputError(f"there is no writer {name!r}{did_you_mean(name, WRITERS)}")
    token = _chosen.set(tuple(names))
    try:
        yield
    finally:
        _chosen.reset(token)


@contextlib.contextmanager
def open_writers(run: Run, start: int) -> Iterator[Sequence[Writer]]:
    """Opens the chosen writers for a run that continues from a step; only the first process writes."""
    with contextlib.ExitStack() as stack:
        names = () if jax.process_index() else _chosen.get()
        yield [stack.enter_context(contextlib.closing(WRITERS[name](run, start))) for name in names]
