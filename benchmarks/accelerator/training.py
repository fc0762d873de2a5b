"""A whole training, as a command has it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import population
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.work import Row
from pini_jax.runs import experiment


def measure(scale: Scale) -> Iterator[Row]:
    """Seconds from start to end, and those of the phases as result.json has them."""
    clip, classes, shots, epochs = scale.training
    case = population.Case("training", clip, classes, shots, {"seed": (1,)}, 0, epochs, epochs)
    with tempfile.TemporaryDirectory() as folder:
        (config,) = population.members(case, Path(folder))
        start = time.perf_counter()
        result = experiment.train_and_evaluate(config, Path(folder) / "run")
        total = time.perf_counter() - start
    told = {name: result[name] for name in ("steps", "steps_per_second", "seconds")}
    yield dict(classes=classes, shots=shots, epochs=epochs, total=total) | told
