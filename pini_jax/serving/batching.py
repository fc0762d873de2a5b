"""Images of many requests, in batches for the towers.

Threads decode; one thread classifies. What arrives while it does waits and makes the next batch, so that a busy
server has full batches, and an idle one answers after `WAIT`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.data.datasets.records import Record, read_image
from pini_jax.data.views import THREADS
from pini_jax.serving.bodies import Photo
from pini_jax.serving.refusal import Limits, Refusal
from pini_jax.use.classifier import BATCH_SIZES, Answer, TrainedClassifier

WAIT = 0.002  # seconds that an image waits for others, at most, while nothing is classified
RETRY = "many photos are waiting: try again in a moment"


class Waiting(NamedTuple):
    """An image that is read, and who wants to know."""

    number: int
    pixels: UInt8[np.ndarray, "h w 3"]
    answer: asyncio.Future[Answer]


class Batching:
    """Answers images of one event loop.

    Attributes:
        trained, mode, limits: what answers, how, and how much at once.
        inside: images that have no answer yet.
    """

    def __init__(
        self, trained: TrainedClassifier, mode: str, limits: Limits, observe: Callable[[int], None]
    ) -> None:
        """`observe` is told the size of every batch."""
        self.trained, self.mode, self.limits, self.inside = trained, mode, limits, 0
        self._observe = observe
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._readers = ThreadPoolExecutor(THREADS, "reading")
        self._tower = ThreadPoolExecutor(1, "tower")

    def warm(self) -> None:
        """Compiles the program of every size."""
        side = self.trained.towers.clip.preprocessing.crop
        for size in BATCH_SIZES:
            self.trained.classify_pixels(range(size), [np.zeros((side, side, 3), np.uint8)] * size, self.mode)

    async def answer_all(self, photos: list[Photo]) -> list[Answer | Refusal]:
        """Of one request, in order.

        Raises:
            Refusal: too many images are waiting, or it takes too long.
        """
        if self.inside + len(photos) > self.limits.queue:
            raise Refusal(429, RETRY)
        self.inside += len(photos)
        tasks = [asyncio.create_task(self._answer(i, photo)) for i, photo in enumerate(photos)]
        for task in tasks:
            task.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.gather(*tasks)
        except TimeoutError:
            raise Refusal(503, f"there was no answer within {self.limits.seconds:g} seconds: try again") from None

    def _leave(self, task: asyncio.Task[Answer | Refusal]) -> None:
        self.inside -= 1

    async def _answer(self, number: int, photo: Photo) -> Answer | Refusal:
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(self._readers, read, self.trained, photo, self.limits.pixels)
        except Refusal as refusal:
            return refusal
        waiting = Waiting(number, pixels, loop.create_future())
        self._waiting.put_nowait(waiting)
        return await waiting.answer

    async def run(self) -> None:
        """Classifies whatever waits, until it is cancelled."""
        while True:
            batch = [await self._waiting.get()]
            if self._waiting.qsize() < BATCH_SIZES[-1] - 1:
                await asyncio.sleep(WAIT)
            while len(batch) < BATCH_SIZES[-1] and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            if wanted := [waiting for waiting in batch if not waiting.answer.done()]:
                await self._classify(wanted)

    async def _classify(self, batch: list[Waiting]) -> None:
        self._observe(len(batch))
        numbers, pixels = [waiting.number for waiting in batch], [waiting.pixels for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._tower, self.trained.classify_pixels, numbers, pixels, self.mode
            )
        except Exception as error:  # of the runtime, such as no memory: these requests fail, and no others
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, found, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def close(self) -> None:
        """Ends the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._tower.shutdown(wait=False, cancel_futures=True)


def read(trained: TrainedClassifier, photo: Photo, most: int) -> UInt8[np.ndarray, "h w 3"]:
    """The view of a photo that is classified.

    Raises:
        Refusal: it is no image that can be read, or has more pixels than `most`.
    """
    record = Record(photo.name, photo.content, -1)
    try:
        width, height = read_image(record, lambda file: file.size)
    except InputError as error:
        bomb = isinstance(error.__context__, Image.DecompressionBombError)
        raise Refusal(413 if bomb else 415, str(error)) from None
    if width * height > most:
        raise Refusal(413, f"an image may have {most:,} pixels, not {width:,} x {height:,}")
    pixels = trained.read(record)
    if isinstance(pixels, InputError):
        raise Refusal(415, str(pixels))
    return pixels
