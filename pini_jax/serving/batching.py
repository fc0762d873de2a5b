"""Images of many requests, in batches for the towers.

Threads decode what has arrived, some at a time; one thread classifies. What arrives while they are busy waits and
goes on together, so that a busy server has full batches, and an idle one answers after `WAIT`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

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
SHARE = 8  # photos that a thread decodes before it hands them on, at most
RETRY = "many photos are waiting: try again in a moment"
Pixels = UInt8[np.ndarray, "h w 3"]
Item = TypeVar("Item")


class Waiting(NamedTuple):
    """A photo, its number in its request, and the future that waits for its answer."""

    number: int
    photo: Photo
    answer: asyncio.Future[Answer | Refusal]


class Batching:
    """Classifies the images of many requests in batches, within one event loop.

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
        self._arrived: asyncio.Queue[Waiting] = asyncio.Queue()
        self._decoded: asyncio.Queue[tuple[Waiting, Pixels]] = asyncio.Queue()
        self._readers = ThreadPoolExecutor(THREADS, "reading")
        self._tower = ThreadPoolExecutor(1, "tower")

    def warm(self) -> None:
        """Compiles the program of every size."""
        side = self.trained.towers.clip.preprocessing.crop
        for size in BATCH_SIZES:
            self.trained.classify_pixels(range(size), [np.zeros((side, side, 3), np.uint8)] * size, self.mode)

    async def answer_all(self, photos: list[Photo]) -> list[Answer | Refusal]:
        """The answers to one request's photos, in order.

        Raises:
            Refusal: too many images are waiting, or it takes too long.
        """
        if self.inside + len(photos) > self.limits.queue:
            raise Refusal(429, RETRY)
        self.inside += len(photos)
        loop = asyncio.get_running_loop()
        waiting = [Waiting(i, photo, loop.create_future()) for i, photo in enumerate(photos)]
        for one in waiting:
            one.answer.add_done_callback(self._leave)
            self._arrived.put_nowait(one)
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.gather(*(one.answer for one in waiting))
        except TimeoutError:
            raise Refusal(503, f"there was no answer within {self.limits.seconds:g} seconds: try again") from None

    def _leave(self, answer: asyncio.Future[Answer | Refusal]) -> None:
        self.inside -= 1

    async def run(self) -> None:
        """Decodes and classifies whatever waits, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(THREADS):
                tasks.create_task(self._decode())
            tasks.create_task(self._classify())

    async def _decode(self) -> None:
        while True:
            share = [await self._arrived.get()]
            share += take_batch(self._arrived, min(self._arrived.qsize() // THREADS, SHARE - 1))
            wanted = [one for one in share if not one.answer.done()]
            found = await self._work(self._readers, wanted, self._read_all, [one.photo for one in wanted])
            for one, pixels in zip(wanted, found, strict=False):
                if isinstance(pixels, Refusal):
                    settle(one, pixels)
                else:
                    self._decoded.put_nowait((one, pixels))

    def _read_all(self, photos: Sequence[Photo]) -> list[Pixels | Refusal]:
        return [read(self.trained, photo, self.limits.pixels) for photo in photos]

    async def _classify(self) -> None:
        while True:
            batch = [await self._decoded.get()]
            if self._decoded.qsize() < BATCH_SIZES[-1] - 1:
                await asyncio.sleep(WAIT)
            batch += take_batch(self._decoded, full_size(1 + self._decoded.qsize()) - 1)
            if batch := [(one, pixels) for one, pixels in batch if not one.answer.done()]:
                self._observe(len(batch))
                wanted, pixels = zip(*batch, strict=True)
                numbers = [one.number for one in wanted]
                answers = await self._work(
                    self._tower, wanted, self.trained.classify_pixels, numbers, pixels, self.mode
                )
                for one, answer in zip(wanted, answers, strict=False):
                    settle(one, answer)

    async def _work(
        self, pool: ThreadPoolExecutor, wanted: Sequence[Waiting], work: Callable[..., list[Any]], *arguments: Any
    ) -> list[Any]:
        """What the work of a thread gives; nothing where it fails, and whoever waits is told."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        except Exception as error:  # of the runtime, such as no memory: these requests fail, and no others
            for one in wanted:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return []

    def close(self) -> None:
        """Ends the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._tower.shutdown(wait=False, cancel_futures=True)


def take_batch(queue: asyncio.Queue[Item], most: int) -> list[Item]:
    """What is in a queue, at most so many items."""
    return [queue.get_nowait() for _ in range(min(most, queue.qsize()))]


def full_size(waiting: int) -> int:
    """How many waiting images make a batch: as many as fill a compiled size with little padding."""
    return max((size for size in BATCH_SIZES[1:] if size <= waiting), default=waiting)


def settle(one: Waiting, answer: Answer | Refusal) -> None:
    """Sets the answer of a waiting photo, unless its request is gone."""
    if not one.answer.done():
        one.answer.set_result(answer)


def read(trained: TrainedClassifier, photo: Photo, most: int) -> Pixels | Refusal:
    """The view of a photo to classify; or a refusal: it is not an image, or has too many pixels."""
    record = Record(photo.name, photo.content, -1)
    try:
        width, height = read_image(record, lambda file: file.size)
    except InputError as error:
        bomb = isinstance(error.__context__, Image.DecompressionBombError)
        return Refusal(413 if bomb else 415, str(error))
    if width * height > most:
        return Refusal(413, f"an image may have {most:,} pixels, not {width:,} x {height:,}")
    pixels = trained.read(record)
    return Refusal(415, str(pixels)) if isinstance(pixels, InputError) else pixels
