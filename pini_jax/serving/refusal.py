"""What is refused, and how much is taken."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Upper bounds on a request.

    Attributes:
        bytes: of one request.
        pixels: of one image.
        queue: images that wait at once, of all requests.
        seconds: for a request to arrive, and again for its answer.
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
