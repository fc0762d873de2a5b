"""Figures of a report: what many runs show together, and what the noise of one looks like.

| file               | what                                                                              |
|--------------------|-----------------------------------------------------------------------------------|
| accuracy.png       | test accuracy against shots, with the 95 % confidence band of the mean over seeds  |
| reliability.png    | accuracy against confidence; the area of a dot is the share of predictions         |
| information.png    | usable information and H(T) - H(T given E) against accuracy                        |
| tokens.png         | root mean square of mu and sigma along the prompt's tokens                         |
| maps.png           | mu and sigma over images, of runs with noise on pixels or patches                  |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, UInt8

from pini_jax.core.shapes import present
from pini_jax.data import templates, views
from pini_jax.data.datasets import sources
from pini_jax.methods import forward, registry
from pini_jax.noise.draws import draw_mean
from pini_jax.noise.gaussian import Gaussian
from pini_jax.report.collect import Entry, by_label, by_plain_label, by_shots
from pini_jax.runs import injector
from pini_jax.use import classifier as classifiers
from pini_jax.use.classifier import TrainedClassifier

matplotlib.use("Agg")  # no window

IMAGES = 4
MANY = 12  # panels or lines that a figure holds
MARKERS = "osD^vP*X"
LINES = (":", "--", "-.")


def draw(entries: Sequence[Entry], output: Path) -> list[str]:
    """Draws every figure that the runs have something for; their file names."""
    drawn = []
    for name, figure in FIGURES.items():
        if (made := figure(entries)) is not None:
            made.savefig(output / name, dpi=130, bbox_inches="tight")
            plt.close(made)
            drawn.append(name)
    return drawn


def accuracy_figure(entries: Sequence[Entry]) -> plt.Figure:
    """mean +- t_{0.975, n-1} std / sqrt(n) over n seeds."""
    figure, axes = plt.subplots(figsize=(6.5, 4.5))
    for (label, group), marker in zip(by_label(entries).items(), itertools.cycle(MARKERS), strict=False):
        values = by_shots(group, "test", "mean", "accuracy")
        shots, mean = list(values), np.array([100 * np.mean(x) for x in values.values()])
        half = np.array([100 * _half_width(x) for x in values.values()])
        (line,) = axes.plot(shots, mean, marker=marker, markersize=4, linewidth=1.3, label=label)
        axes.fill_between(shots, mean - half, mean + half, color=line.get_color(), alpha=0.12, linewidth=0)
    for (label, group), style in zip(by_plain_label(entries).items(), itertools.cycle(LINES), strict=False):
        zero_shot = 100 * np.mean([entry.result["zero_shot"]["accuracy"] for entry in group])
        axes.axhline(zero_shot, color="black", linestyle=style, linewidth=1, label=label)
    shots = sorted({entry.result["shots"] for entry in entries})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    axes.set(xlabel="shots per class", ylabel="test accuracy, %")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _half_width(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    return float(scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def reliability_figure(entries: Sequence[Entry]) -> plt.Figure:
    """A panel for zero-shot CLIP and for every label: of all its runs with the most shots."""
    shots = max(entry.result["shots"] for entry in entries)
    chosen = [entry for entry in entries if entry.result["shots"] == shots]
    panels = {"zero-shot": _pooled(chosen, "zero_shot")}
    for label, group in by_label(chosen).items():
        modes = ("mean", "marginal") if registry.makes_noise(group[0].result["method"]) else ("mean",)
        panels |= {f"{label}, {mode}" if len(modes) > 1 else label: _pooled(group, mode) for mode in modes}
    panels = dict(list(panels.items())[:MANY])
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.5 * rows), sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, (size, confidence, correct)) in zip(grid.flat, panels.items(), strict=False):
        used = size > 0
        share = size[used] / size.sum()
        axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
        axes.plot(confidence[used] / size[used], correct[used] / size[used], linewidth=1)
        axes.scatter(confidence[used] / size[used], correct[used] / size[used], s=4 + 150 * share, alpha=0.7)
        axes.set_title(f"{title}\nECE {np.abs(correct - confidence).sum() / size.sum():.3f}", fontsize=7)
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    figure.suptitle(f"{shots} shots", fontsize=9)
    figure.tight_layout()
    return figure


def _pooled(entries: Sequence[Entry], name: str) -> Float[np.ndarray, "3 bins"]:
    """Sums over runs: sizes of the bins, confidence and correct predictions in them."""
    bins = [entry.result["reliability"][name] for entry in entries]
    return np.array([[x[key] for key in ("size", "confidence", "correct")] for x in bins], float).sum(0)


def information_figure(entries: Sequence[Entry]) -> plt.Figure:
    """Every run is a dot."""
    kinds = {"usable_information": "usable information, nats", "mutual_information": "H(T) - H(T|E), nats"}
    figure, grid = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for axes, (kind, title) in zip(grid, kinds.items(), strict=True):
        for (label, group), marker in zip(by_label(entries).items(), itertools.cycle(MARKERS), strict=False):
            x = [entry.result["information"][kind] for entry in group]
            y = [100 * entry.result["test"]["mean"]["accuracy"] for entry in group]
            axes.scatter(x, y, s=14, marker=marker, label=label, alpha=0.8)
        axes.axvline(0, color="black", linestyle=":", linewidth=1)
        axes.set_xlabel(title)
    grid[0].set_ylabel("test accuracy, %")
    grid[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------ one run's noise


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


def _with_most_shots(entries: Sequence[Entry], is_shown: Callable[[Mapping[str, Any]], bool]) -> dict[str, Entry]:
    """The first run with the most shots of every label whose config has something to show."""
    found: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: -entry.result["shots"]):
        result = entry.result
        if registry.makes_noise(result["method"]) and result["clip"] and entry.label not in found:
            config = injector.load_injector(entry.folder / "injector.safetensors").config
            if is_shown(config.noise):
                found[entry.label] = entry
    return dict(list(found.items())[:MANY])


def tokens_figure(entries: Sequence[Entry]) -> plt.Figure | None:
    """A line for every label with noise on the prompt."""
    chosen = _with_most_shots(entries, lambda noise: "prompt_tokens" in noise)
    if not chosen:
        return None
    figure, grid = plt.subplots(2, 1, figsize=(8, 5), sharex=True)
    for label, entry in chosen.items():
        classifier = classifiers.load_classifier(entry.folder)
        gaussian = gaussians(classifier, _some_images(classifier, 1).images)["prompt_tokens"]
        for axes, part in zip(grid, (gaussian.mean, gaussian.scale), strict=True):
            axes.plot(np.sqrt(np.square(part[0, 0]).mean(-1)), marker="o", markersize=3, label=label)
    words = _words(classifier)
    grid[1].set_xticks(range(len(words)), words, rotation=60, fontsize=7)
    for axes, name in zip(grid, ("mu", "sigma"), strict=True):
        axes.set_ylabel(f"rms of {name}")
        axes.set_ylim(bottom=0)
    grid[0].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


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


def maps_figure(entries: Sequence[Entry]) -> plt.Figure | None:
    """Rows of images, with the root mean square over channels of mu and sigma beside them."""
    chosen = _with_most_shots(entries, lambda noise: bool({"pixels", "patch_tokens"} & noise.keys()))
    if not chosen:
        return None
    panels = []
    for label, entry in chosen.items():
        classifier = classifiers.load_classifier(entry.folder)
        shown = _some_images(classifier, IMAGES)
        for site, gaussian in gaussians(classifier, shown.images).items():
            if site in ("pixels", "patch_tokens"):
                panels.append((label if site in label else f"{label}, {site}", shown.pictures, gaussian))
    figure, grid = plt.subplots(3 * len(panels), IMAGES, figsize=(1.6 * IMAGES, 4.8 * len(panels)), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (title, pictures, gaussian) in enumerate(panels):
        grid[3 * row, 0].set_title(title, fontsize=8, loc="left")
        for i, picture in enumerate(pictures):
            grid[3 * row, i].imshow(picture)
        for below, name, part in ((1, "mu", gaussian.mean), (2, "sigma", gaussian.scale)):
            values = [_map(np.asarray(part[0, 0, i])) for i in range(len(pictures))]
            top = max(x.max() for x in values)
            for i, value in enumerate(values):
                grid[3 * row + below, i].imshow(value, vmin=0, vmax=top, cmap="magma")
            grid[3 * row + below, 0].set_title(f"rms of {name}, up to {top:.2g}", fontsize=7, loc="left")
    return figure


def _map(noise: Float[np.ndarray, "*m d"]) -> Float[np.ndarray, "h w"]:
    """rms over channels; of patches, without the class token, as a square."""
    power = np.sqrt(np.square(noise).mean(-1))
    if power.ndim == 2:
        return power
    side = int(np.sqrt(len(power)))
    return power[len(power) - side * side :].reshape(side, side)


FIGURES: Mapping[str, Callable[[Sequence[Entry]], plt.Figure | None]] = {
    "accuracy.png": accuracy_figure,
    "reliability.png": reliability_figure,
    "information.png": information_figure,
    "tokens.png": tokens_figure,
    "maps.png": maps_figure,
}
