"""Figures of what one run has learned: its noise along the prompt's tokens and over images."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float, UInt8

from pini_jax.core.shapes import present
from pini_jax.data import templates, views
from pini_jax.data.datasets import sources
from pini_jax.methods import forward
from pini_jax.noise.draws import draw_mean
from pini_jax.noise.gaussian import Gaussian
from pini_jax.report.style import COLOURS, COLUMN, Captioned
from pini_jax.use.classifier import TrainedClassifier

IMAGES = 4
OVER_IMAGES = ("pixels", "patch_tokens")


def draw_noise(classifier: TrainedClassifier) -> list[Captioned]:
    """A figure for every side on which the run has noise that can be seen."""
    shown = _some_images(classifier, IMAGES)
    seen = gaussians(classifier, shown.images)
    drawn = [tokens_figure(classifier, seen["prompt_tokens"])] if "prompt_tokens" in seen else []
    over_images = {site: gaussian for site, gaussian in seen.items() if site in OVER_IMAGES}
    return [*drawn, *([maps_figure(shown.pictures, over_images)] if over_images else [])]


def gaussians(classifier: TrainedClassifier, images: Float[np.ndarray, "b h w 3"]) -> dict[str, Gaussian]:
    """The noise at every site, as these pixels meet it, without a draw."""
    seen: dict[str, Gaussian] = {}

    def watch(site: str, gaussian: Gaussian) -> Float[Array, "n *x"]:
        seen[site] = gaussian
        return draw_mean(site, gaussian)

    method, variables, theta = classifier.method, classifier.variables, classifier.frozen.theta
    inputs = images if method.traits.reads == "pixels" else classifier.towers.encode(images)
    forward.forward(method, variables, theta, classifier.text, jnp.asarray(inputs), watch)
    return seen


def tokens_figure(classifier: TrainedClassifier, gaussian: Gaussian) -> Captioned:
    """mu and sigma along the prompt."""
    figure, axes = plt.subplots(figsize=(COLUMN, 2.0), layout="constrained")
    words = _words(classifier)
    sizes = {
        name: np.sqrt(np.square(np.asarray(part[0, 0])).mean(-1))
        for name, part in (("mu", gaussian.mean), ("sigma", gaussian.scale))
    }
    for (name, size), colour, marker in zip(sizes.items(), COLOURS, "os", strict=False):
        axes.plot(size, marker=marker, color=colour, label=name)
    axes.set_xticks(range(len(words)), words, rotation=90)
    axes.set_ylabel("root mean square")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.18), ncols=2)
    largest = int(np.argmax(sizes["mu"]))
    return Captioned(
        "tokens",
        "Noise along the prompt",
        "Root mean square of the noise's mean (mu) and standard deviation (sigma) at every token before the class "
        "name.",
        f"mu goes from {sizes['mu'].min():.2g} to {sizes['mu'].max():.2g}, largest at token {largest + 1} of "
        f"{len(words)}; sigma from {sizes['sigma'].min():.2g} to {sizes['sigma'].max():.2g}.",
        figure,
    )


def _words(classifier: TrainedClassifier) -> list[str]:
    """The template's words, each in the place of its first token."""
    (template,) = templates.find_templates(classifier.config.template, classifier.config.dataset)
    tokenizer, words = classifier.towers.clip.tokenizer, []
    around = len(tokenizer.start_ids) + 1
    for word in template.split("{}")[0].split():
        words += [word, *[""] * (len(tokenizer.encode(word)) - around - 1)]
    return words[: len(present(classifier.text.prompts).prefix)]


class Shown(NamedTuple):
    """Images as the tower reads them, and as a person does."""

    images: Float[np.ndarray, "b h w 3"]
    pictures: UInt8[np.ndarray, "b h w 3"]


def _some_images(classifier: TrainedClassifier, count: int) -> Shown:
    """A test image of each of the first classes."""
    config, preprocessing = classifier.config, classifier.towers.clip.preprocessing
    firsts = {
        record.label: record for record in reversed(sources.load_dataset(config.dataset, config.data_dir).test)
    }
    records = [firsts[label] for label in sorted(firsts)[:count]]
    pictures = [views.view_pixels(record, preprocessing, None, 0, 0, 0) for record in records]
    return Shown(views.Views(records, preprocessing)[np.arange(len(records))], np.stack(pictures))


def maps_figure(pictures: UInt8[np.ndarray, "b h w 3"], noise: dict[str, Gaussian]) -> Captioned:
    """Rows of images, with the root mean square over channels of mu and sigma below them."""
    rows, count = 1 + 2 * len(noise), len(pictures)
    side = COLUMN / IMAGES
    figure, grid = plt.subplots(
        rows, count, figsize=(side * count, (side + 0.12) * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image in zip(grid[0], pictures, strict=True):
        axes.imshow(image)
    parts = [
        (site, name, part) for site, x in noise.items() for name, part in (("mu", x.mean), ("sigma", x.scale))
    ]
    tops = []
    for row, (site, name, part) in zip(grid[1:], parts, strict=True):
        values = [_map(np.asarray(part[0, 0, i])) for i in range(count)]
        tops.append(max(float(x.max()) for x in values))
        for axes, value in zip(row, values, strict=True):
            axes.imshow(value, vmin=0, vmax=tops[-1], cmap="gray")
        row[0].set_title(f"{name} on {site}, up to {tops[-1]:.2g}", fontsize=6, loc="left", pad=2)
    said = "; ".join(f"{name} on {site} up to {top:.2g}" for (site, name, _), top in zip(parts, tops, strict=True))
    return Captioned(
        "maps",
        "Noise over images",
        "A test image of each of the first classes; below, the root mean square over channels of mu and sigma, "
        "from black (0) to white (the largest).",
        f"{count} images with the size of their noise: {said}.",
        figure,
    )


def _map(noise: Float[np.ndarray, "*m d"]) -> Float[np.ndarray, "h w"]:
    """rms over channels; of patches, without the class token, as a square."""
    power: Float[np.ndarray, "*m"] = np.sqrt(np.square(noise).mean(-1))
    if power.ndim == 2:
        return power
    side = int(np.sqrt(len(power)))
    return power[len(power) - side * side :].reshape(side, side)
