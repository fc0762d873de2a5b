"""What a unit of a sweep costs: how often it does what takes time, and what each of these takes.

Costs are data: measured at hand (`benchmarks.parts`), read from a file, or computed for a card of a data sheet.
Seconds of the clock and seconds of all cores go through the same sums.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import flops, inputs
from benchmarks.inputs import Lengths
from pini_jax.clip import prompts
from pini_jax.clip.architecture import Architecture
from pini_jax.config import Config
from pini_jax.data.selection import MAX_VAL_SHOTS
from pini_jax.train import schedule

ONCE = 2  # draws of texts that every run has in prediction: of the mean, and of a sample
TOWER, LANES = "B/16", 5  # of the rows of benchmarks.accelerator; a unit of 15 runs fills six lanes
ANY = 2**62  # tokens


class Point(NamedTuple):
    """Seconds at a size."""

    size: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        room: tokens that the lanes of a step fill at most.
        overlaps: whether images are encoded while others are read, as where towers do not compute on the cores.
        unit: of opening one: data, weights, texts of the classes, programs from the cache.
        compile: of what is not in the cache.
        run: of opening and closing one, without what is counted below.
        save: of a checkpoint of one run.
        look: of finding out whether an image can be read.
        train_view, test_view: of reading an image.
        tower: of encoding it.
        step: of a run, side by side with others where that pays; by the tokens of its prompts.
        text: of encoding the classes' prompts once; by the same.
        predict: of an image, classified in every mode, where towers compute; by the number of classes.
        answer: of measuring and writing that, on the cores; by the same.
    """

    room: int
    overlaps: bool
    unit: float
    compile: float
    run: float
    save: float
    look: float
    train_view: float
    test_view: float
    tower: float
    step: Sequence[Point]
    text: Sequence[Point]
    predict: Sequence[Point]
    answer: Sequence[Point]

    def encoded(self, view: float) -> float:
        """An image, read and encoded."""
        return np.maximum(view, self.tower) if self.overlaps else view + self.tower


def at(points: Sequence[Point], size: float) -> float:
    """On the line through the two nearest; one point alone is proportional to its size."""
    if len(points) == 1:
        return points[0].seconds * (size / points[0].size)
    right = min(max(bisect.bisect([point.size for point in points], size), 1), len(points) - 1)
    (a, low), (b, high) = points[right - 1], points[right]
    return low + (high - low) * ((size - a) / (b - a))


# ------------------------------------------------------------------------------------------------ units


class Facts(NamedTuple):
    """A dataset.

    Attributes:
        tokens: of the prompts of a step.
        test: images.
    """

    classes: int
    tokens: int
    test: int


class Unit(NamedTuple):
    """What a worker does for runs that it trains side by side.

    Attributes:
        steps: of all lanes, those without a run counted.
        trained, validated: images of all runs, every view counted.
        looked: images of fresh views, that are tried before.
        draws: of texts, in prediction.
    """

    dataset: str
    facts: Facts
    runs: int
    steps: int
    saves: int
    trained: int
    validated: int
    looked: int
    draws: int


def packed(lengths: Lengths) -> prompts.Prompts:
    """Prompts of these lengths as a step has them."""
    return prompts.pack(inputs.make_prompts(lengths, inputs.VIT_B_16.text.vocab_size))


def tokens_of(packed: prompts.Prompts) -> int:
    """Of the prompts of a step: what all share, and the rows."""
    return len(packed.start) + len(packed.prefix) + packed.suffix.size


class _Training(NamedTuple):
    """A run in numbers."""

    images: int
    batch: int
    steps: int
    read: int
    saves: int


def _training(config: Config, classes: int) -> _Training:
    images = classes * config.shots
    batch = min(config.batch_size, images)
    steps = config.num_steps(images // batch)
    read = config.views * images or steps * batch
    return _Training(images, batch, steps, read, saves=-(-steps // config.checkpoint_every))


def describe(configs: Sequence[Config], facts: Facts, room: int) -> Unit:
    """The unit of these runs, in lanes as the runner has them."""
    runs = [_training(config, facts.classes) for config in configs]
    lengths = [run.steps for run in runs]
    width = max(1, min(schedule.num_busy_lanes(lengths), room // facts.tokens))
    ticks = max(sum(lengths[i] for i in lane) for lane in schedule.assign(lengths, width))
    return Unit(
        dataset=configs[0].dataset,
        facts=facts,
        runs=len(runs),
        steps=width * ticks,
        saves=sum(run.saves for run in runs),
        trained=sum(run.read for run in runs),
        validated=sum(facts.classes * min(config.shots, MAX_VAL_SHOTS) for config in configs),
        looked=0 if configs[0].views else sum(run.images for run in runs),
        draws=sum(ONCE + config.num_draws for config in configs),
    )


def parts(unit: Unit, costs: Costs, first: bool) -> dict[str, float]:
    """Seconds of a unit by what they go to.

    Args:
        first: whether its worker has neither programs nor test images of the dataset yet.
    """
    facts, others = unit.facts, unit.validated + first * unit.facts.test
    answered = unit.runs * facts.test + unit.validated
    return {
        "steps": unit.steps * at(costs.step, facts.tokens),
        "training images": unit.trained * costs.encoded(costs.train_view) + unit.looked * costs.look,
        "other images": others * (costs.encoded(costs.test_view) + costs.look),
        "texts": (1 + unit.draws) * at(costs.text, facts.tokens),
        "predictions": answered * at(costs.predict, facts.classes),
        "measures": answered * at(costs.answer, facts.classes),
        "checkpoints": unit.saves * costs.save,
        "opening and closing": costs.unit + unit.runs * costs.run + first * costs.compile,
    }


# ------------------------------------------------------------------------------------------------ other devices


class Card(NamedTuple):
    """An accelerator on paper.

    Attributes:
        peak: operations per second, of its data sheet.
        texts, images: shares of that which the towers are taken to reach.
        cores: of its machine, that read images.
    """

    name: str
    peak: float
    texts: float
    images: float
    cores: int


# NVIDIA's data sheet, bfloat16 without sparsity; the shares are this project's goals, and measured by nobody.
H200 = Card("H200", 989e12, 0.4, 0.5, 16)


def on_card(cpu: Costs, card: Card, sizes: Architecture) -> Costs:
    """Computed: towers from their operations and the card, reading by all of its cores; the rest is a core's work.

    Args:
        cpu: seconds of all cores at hand.
    """
    step, text = [], []
    for rows in map(packed, inputs.LENGTHS.values()):
        for points, needed in ((step, flops.step_flops(sizes, rows)), (text, flops.prompts_flops(sizes, rows))):
            points.append(Point(tokens_of(rows), needed / (card.peak * card.texts)))
    reading = {name: getattr(cpu, name) / card.cores for name in ("look", "train_view", "test_view")}
    tower = flops.image_flops(sizes) / (card.peak * card.images)
    return _elsewhere(cpu, tower, step, text, **reading)


def _elsewhere(costs: Costs, tower: float, step: Sequence[Point], text: Sequence[Point], **more: float) -> Costs:
    """Towers that do not compute on the cores; what is classified there from features takes next to nothing."""
    predict = [Point(size, 0.0) for size, _ in costs.predict]
    return dataclasses.replace(
        costs, room=ANY, overlaps=True, tower=tower, step=step, text=text, predict=predict, **more
    )


def from_accelerator(costs: Costs, rows: Iterable[dict]) -> Costs:
    """Towers as `benchmarks.accelerator` has measured them, the last time; the rest stays as it is.

    A step is that of one of five runs side by side where that was measured; texts alone are taken for half of it.
    """
    towers = [row for row in rows if row.get("tower", TOWER) == TOWER and "left_out" not in row]
    ms = {row["classes"]: row["ms"] for row in towers if row["phase"] == "text"}
    ms |= {row["classes"]: row["ms"] for row in towers if row["phase"] == "lanes" and row["members"] == LANES}
    step = [Point(tokens_of(packed(inputs.LENGTHS[classes])), ms[classes] / 1e3) for classes in sorted(ms)]
    text = [Point(size, seconds / 2) for size, seconds in step]
    tower = [1 / row["per_second"] for row in towers if row["phase"] == "images"][-1]
    return _elsewhere(costs, tower, step, text)


def from_dict(content: dict[str, Any]) -> Costs:
    """What `dataclasses.asdict` has made of costs, or JSON of that."""
    points = {name: [Point(*point) for point in content[name]] for name in ("step", "text", "predict", "answer")}
    return Costs(**{**content, **points})
