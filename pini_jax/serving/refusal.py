"""Limits on requests, and their refusal."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Upper bounds on a request.

    Attributes:
        bytes: size of one request.
        pixels: pixels of one image.
        queue: images of all requests that may wait at once.
        seconds: time for a request to arrive, and again for its answer.
    """

    bytes: int = 32 << 20
    pixels: int = 1 << 26
    queue: int = 256
    seconds: float = 20.0


class Refusal(Exception):
    """A request, or one of its images, that is refused: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status
