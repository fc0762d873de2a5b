"""Members of a population side by side, in one text step."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.text import text_step
from benchmarks.accelerator.work import Row, work


def measure(scale: Scale) -> Iterator[Row]:
    """Milliseconds per member and step, and how often faster than one after another that is."""
    for classes in scale.lane_classes:
        step = text_step(scale.texts[0], classes)
        phi, theta, text, batch, key = step.arguments
        alone = work(step.call, *step.arguments).seconds()
        for members in scale.lanes:
            many_phi, many_batches = jax.tree.map(lambda x, n=members: np.stack([x] * n), (phi, batch))
            lanes = jax.vmap(step.call, in_axes=(0, None, None, 0, 0))
            arguments = (many_phi, theta, text, many_batches, jax.random.split(key, members))
            each = work(lanes, *arguments).seconds() / members
            yield dict(classes=classes, members=members, ms=1e3 * each, alone_ms=1e3 * alone, ratio=alone / each)
