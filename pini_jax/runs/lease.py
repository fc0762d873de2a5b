"""A claim that is held: renewed by a thread as long as the work goes on, and lost to whoever takes it over."""

from __future__ import annotations

import logging
import threading
import time

from pini_jax.core.errors import last_line
from pini_jax.runs.claims import RENEWALS, Claim, Claims

LOG = logging.getLogger(__name__)


class Lost(Exception):
    """Another worker has the newest claim on this unit."""


class Lease:
    """Renews a claim in a thread of its own, and says in it how far the unit is."""

    def __init__(self, claims: Claims, claim: Claim):
        self._claims, self._claim = claims, claim
        self._over, self._lost = False, False
        self._due = threading.Event()
        self._progress: dict[str, float] = {}
        self._begun: tuple[float, int] | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._due.set()
        self._thread.join()

    def check(self) -> None:
        """Raises Lost if another worker has taken the unit over."""
        if self._lost:
            raise Lost

    def report(self, done: int, total: int) -> None:
        """A `Watch` that notes the progress of the runs.

        Raises:
            Lost: another worker has taken the unit over.
        """
        self.check()
        now, first = time.monotonic(), self._begun is None
        begun, start = self._begun = self._begun or (now, done - 1)
        rate = (done - start) / (now - begun) if now > begun else 0.0
        self._progress = {"start": start, "step": done, "steps": total, "rate": rate}
        if first:
            self._due.set()  # of workers that are lost it counts whether they have taken a step

    def _renew(self) -> None:
        renewed = time.monotonic()
        while True:
            self._due.wait(self._claims.lease / RENEWALS)
            self._due.clear()
            if self._over:
                return
            try:
                if time.monotonic() - renewed > self._claims.lease and not self._claims.holds(self._claim):
                    self._lost = True
                    return
                self._claims.renew(self._claim, self._progress)
                renewed = time.monotonic()
            except OSError as error:
                LOG.warning("the claim could not be renewed (%s)", last_line(error))
