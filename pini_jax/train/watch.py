"""What whoever has runs trained hears of them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


def _ignore(*_: object) -> None:
    """Does nothing."""


class Watch(NamedTuple):
    """What is called while runs are trained and evaluated; what it raises ends that where it is.

    Attributes:
        stepped: after every call of the compiled steps, with the steps that the runs have taken and all they take;
            also after every evaluation.
        saved: when something of a run is whole on the disk: the checkpoints of a step, a result.
    """

    stepped: Callable[[int, int], object] = _ignore
    saved: Callable[[], object] = _ignore


UNWATCHED = Watch()
