"""The report of one run: what it gets wrong, how sure it is, how it was trained, and how to do it again."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from PIL import Image, ImageOps

from pini_jax.core.bucket import is_url
from pini_jax.core.copies import place_of
from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain, printable
from pini_jax.data.datasets import sources
from pini_jax.data.datasets.records import Record, open_image
from pini_jax.evaluate import metrics, predictions
from pini_jax.evaluate.predictions import Answers
from pini_jax.methods import registry
from pini_jax.report import noise_figures, page, run_figures, style, tables, terminal
from pini_jax.report.collect import Entry
from pini_jax.report.page import (
    Block,
    Code,
    Gallery,
    Items,
    Page,
    Paragraph,
    Picture,
    Section,
    TableBlock,
    Thumbnail,
)
from pini_jax.report.style import Captioned
from pini_jax.runs.folder import PROVENANCE, SELECTION, read_sealed
from pini_jax.use import classifier as classifiers

SHOWN = 24  # images of a gallery
SIDE = 96  # pixels of a thumbnail
CONFUSED = 10  # pairs of classes that are listed


class Tested(NamedTuple):
    """The test images of a run with what it answered, by the mean.

    Attributes:
        confidence: calibrated, of the likeliest class.
    """

    answers: Answers
    names: Sequence[str]
    confidence: Float[np.ndarray, "b"]

    @property
    def counts(self) -> Int[np.ndarray, "c c"]:
        """The confusion matrix."""
        return metrics.confusion(self.answers, len(self.names))


def report_run(entry: Entry, output: Path) -> tuple[Page, str]:
    """Writes tables and figures to a folder, and returns the page and the Markdown that show them."""
    tested = read_tested(entry)
    sections = [Section("In numbers", [_numbers(entry), *map(Paragraph, terminal.warnings(entry.result))])]
    with style.styled():
        if tested is not None:
            sections.append(Section("What is taken for what", _confusion(tested, output)))
            sections.append(Section("Images to look at", _galleries(tested, _records(entry))))
        reliability = _saved(run_figures.run_reliability_figure(entry), output)
        sections.append(Section("How sure it is", [reliability, *_doubt(entry.result.get("doubt"))]))
        if (training := run_figures.training_figure(entry.folder)) is not None:
            sections.append(Section("Training", [_saved(training, output)]))
        sections.append(Section("The noise", _noise(entry, output)))
    sections += [Section("What was read", _read(entry)), Section("How to run it again", _again(entry))]
    whole = Page(f"{entry.label}: {entry.result['dataset']}", lead(entry, tested), sections)
    tables.write_table(tables.runs_frame([entry]), output, "runs")
    return whole, _markdown(whole)


def read_tested(entry: Entry) -> Tested | None:
    """The test images that have a label; None of a run that kept no predictions.

    Raises:
        InputError: they do not match their hash.
    """
    if (sha256 := entry.result.get("predictions_sha256")) is None:
        return None
    kept = predictions.read_predictions(entry.folder / predictions.FILE, sha256)
    answers = kept.by_mode("test")["mean"].labelled()
    names = list(map(printable, kept.class_names["test"]))  # a table of a dataset's may hold line breaks
    return Tested(answers, names, np.exp(answers.calibrated[:, 0]))


def lead(entry: Entry, tested: Tested | None) -> str:
    """What a run says, in plain words."""
    result = entry.result
    accuracy, before = result["test"]["mean"]["accuracy"], result["zero_shot"]["accuracy"]
    number = result["num_test"]
    said = [
        f"{round(accuracy * number):,} of {number:,} test images are right; without training {before:.0%} were."
    ]
    if tested is not None and (pairs := confused(tested)):
        (name, other, count), images = pairs[0], tested.counts.sum(1)
        of = images[list(tested.names).index(name)]
        said.append(f"Class {name} is most often taken for {other} ({count} of {of}).")
    if result["clip"] == "tiny_clip":
        said.append("These weights know only letters and digits.")
    return " ".join(said)


def confused(tested: Tested) -> list[tuple[str, str, int]]:
    """(class, what it is taken for, how often), the most often first."""
    wrong = tested.counts - np.diag(np.diag(tested.counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(tested.names[a], tested.names[b], int(wrong[a, b])) for a, b in pairs if wrong[a, b]]


# ------------------------------------------------------------------------------------------------ sections


def _saved(drawn: Captioned, output: Path) -> Picture:
    return page.picture(drawn, style.save(drawn, output))


def _numbers(entry: Entry) -> TableBlock:
    """Plain CLIP and every way of prediction."""
    result = entry.result
    measures = {
        "accuracy": "accuracy, %",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro-F1",
        "nll": "NLL",
        "ece": "ECE",
        "calibrated_nll": "calibrated NLL",
        "calibrated_ece": "calibrated ECE",
    }
    rows = {"zero-shot CLIP": result["zero_shot"]} | terminal.titled(
        result, int(entry.settings.get("num_draws", 0))
    )
    known = [name for name in measures if all(name in row for row in rows.values())]
    cells = {
        title: [f"{100 * row[name]:.1f}" if name == "accuracy" else f"{row[name]:.3f}" for name in known]
        for title, row in rows.items()
    }
    frame = pd.DataFrame.from_dict(cells, orient="index", columns=[measures[name] for name in known])
    text = f"{result['num_test']:,} test images. {_sentence(terminal.told(result))} NLL in nats; calibrated: at a "
    text += "temperature fitted on images that nothing was trained on."
    return TableBlock("Test images", text, frame.rename_axis("predicted by"))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _doubt(doubt: Mapping[str, Any] | None) -> list[Block]:
    """Sets of plausible classes and images of none of them, on test images."""
    if not doubt or not doubt["held_out"]:
        return [Paragraph("No image was held out to learn doubt from: every class is plausible.")]
    (low, high), held_out = doubt["promised_coverage"], f"{doubt['held_out']:,} held-out images"
    if low == 1:
        text = f"{held_out} are too few to promise {doubt['level']:.0%}, so that every class is plausible. "
    else:
        text = (
            f"Sets hold the right class of {doubt['level']:.0%} of images: {low:.0%} to {high:.0%} can be "
            f"promised by {held_out}. LAC's are the smallest; the size of APS's follows the doubt in an image. "
        )
    text += f"May be none: the share of test images, all of known classes, whose {doubt['score']} is low."
    columns = ["LAC: coverage", "LAC: classes", "APS: coverage", "APS: classes", "may be none"]
    rows = {
        "zero-shot CLIP" if mode == "zero_shot" else mode: [
            *(cell for x in ("lac", "aps") for cell in _covered(measured["sets"][x])),
            f"{measured['unsure']:.1%}",
        ]
        for mode, measured in doubt["modes"].items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return [TableBlock("Plausible classes, and none of these", text, frame.rename_axis("predicted by"))]


def _covered(sets: Mapping[str, float]) -> tuple[str, str]:
    return f"{sets['coverage']:.1%}", f"{sets['mean_size']:.1f}"


def _confusion(tested: Tested, output: Path) -> list[Block]:
    found = metrics.by_class(tested.counts)
    classes = pd.DataFrame(
        {"class": tested.names, "images": found.images, "precision": found.precision, "recall": found.recall}
    )
    tables.write_table(classes, output, "classes")
    matrix = pd.DataFrame(tested.counts, index=list(tested.names), columns=list(tested.names))
    tables.write_table(matrix.rename_axis("class / taken for").reset_index(), output, "confusion")
    pairs = pd.DataFrame(confused(tested), columns=["class", "taken for", "images"]).set_index("class")
    blocks: list[Block] = [_saved(run_figures.confusion_figure(tested.counts, tested.names), output)]
    if len(pairs):
        blocks.append(TableBlock("Most often confused", "", pairs))
    shown = classes.assign(
        precision=classes["precision"].map(_percent), recall=classes["recall"].map(_percent)
    ).set_index("class")
    text = "Precision: of what is taken for the class, the share that is right. Recall: of its images, the share."
    return [*blocks, TableBlock("By class", text, shown, folded=len(shown) > run_figures.NAMED)]


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"


def _galleries(tested: Tested, records: Mapping[str, Record]) -> list[Block]:
    """The surest mistakes, and the least sure of all."""
    wrong = np.flatnonzero(tested.answers.predicted != tested.answers.label)
    surest = wrong[np.argsort(-tested.confidence[wrong], kind="stable")][:SHOWN]
    least = np.argsort(tested.confidence, kind="stable")[:SHOWN]
    blocks: list[Block] = []
    for title, chosen, of in (
        ("Surest mistakes", surest, len(wrong)),
        ("Least sure", least, len(tested.confidence)),
    ):
        if len(chosen):
            text = (
                f"{len(chosen)} of {of:,}. What was predicted, with the calibrated probability, and what is right."
            )
            items = [_thumbnail(tested, i, records) for i in chosen]
            if gone := sum(not item.source for item in items):
                text += f" {gone} have no picture: features have none, and files may have been moved."
            blocks.append(Gallery(title, text, items))
    return blocks or [Paragraph("There is no mistake.")]


def _thumbnail(tested: Tested, number: int, records: Mapping[str, Record]) -> Thumbnail:
    answers = tested.answers
    name = answers.path[number]
    predicted, right = (tested.names[x[number]] for x in (answers.predicted, answers.label))
    said = f"{predicted}, {tested.confidence[number]:.0%}" + ("" if predicted == right else f"; is {right}")
    source = _small(records[name]) if name in records else ""
    return Thumbnail(name, said, f"Test image of {right}, taken for {predicted}", source)


def _small(record: Record) -> str:
    """The image as a square of a page; nothing where it cannot be read any more."""
    try:
        image = open_image(record)
    except (InputError, OSError):
        return ""
    # What has fewer pixels keeps them as squares that can be seen.
    how = Image.Resampling.BICUBIC if max(image.size) > SIDE else Image.Resampling.NEAREST
    square = ImageOps.pad(image, (SIDE, SIDE), how, color="white")
    content = io.BytesIO()
    square.save(content, "JPEG", quality=80)
    return page.data_uri(content.getvalue(), "image/jpeg")


def _records(entry: Entry) -> dict[str, Record]:
    """The test images by their names, where they still are."""
    dataset = str(entry.settings.get("dataset", ""))
    try:
        if not sources.has_images(dataset):
            return {}
        found = sources.load_dataset(dataset, str(entry.settings.get("data_dir", "")))
    except (InputError, OSError):
        return {}
    return {record.id: record for record in found.test}


def _noise(entry: Entry, output: Path) -> list[Block]:
    """Figures of the noise, or why there are none."""
    if not registry.makes_noise(entry.result["method"]):
        return [Paragraph("This method makes none.")]
    if not entry.result["clip"]:
        return [
            Paragraph(
                "It was trained on features made elsewhere: there are no tokens and no images to show it on."
            )
        ]
    try:
        drawn = noise_figures.draw_noise(classifiers.load_classifier(entry.folder))
    except (InputError, OSError) as error:
        return [Paragraph(f"It cannot be shown here: {plain(error)}.")]
    return [_saved(x, output) for x in drawn] or [Paragraph("It is on features alone, which cannot be seen.")]


def _read(entry: Entry) -> list[Block]:
    result = entry.result
    said = [
        f"{result['num_classes']} classes of {result['dataset']}, with {result['clip'] or 'given features'}.",
        f"{result['num_train']:,} training images ({result['shots']} per class, seed {result['seed']}).",
        f"{result['num_test']:,} test images, which chose nothing.",
    ]
    path = entry.folder / SELECTION
    selection = read_sealed(path) if path.exists() else {}
    if val := selection.get("val"):
        said.append(f"{len(val):,} validation images.")
    left_out = selection.get("left_out", {})
    said.append(
        f"{len(left_out):,} images could not be read and are left out." if left_out else "Nothing was left out."
    )
    blocks: list[Block] = [Items(said)]
    if left_out:
        frame = pd.DataFrame(left_out.items(), columns=["image", "why"]).set_index("image")
        blocks.append(TableBlock("Images left out", "", frame, folded=True))
    return blocks


def _again(entry: Entry) -> list[Block]:
    """The command that began it, what it ran with, and how its folder is used."""
    path = entry.folder / PROVENANCE
    origin = read_sealed(path) if path.exists() else {}
    folder = place_of(entry.folder)
    blocks: list[Block] = []
    if command := origin.get("command"):
        blocks += [Paragraph("It was begun by"), Code(shlex.join(command))]
    if not is_url(folder):
        blocks.append(Paragraph("It is made again and held against this result by"))
        blocks.append(Code(f"pini reproduce {shlex.quote(folder)}"))
    blocks.append(Paragraph("It is used on images by"))
    blocks.append(Code(f"pini predict --workdir={shlex.quote(folder)} IMAGE ..."))
    versions = ", ".join(f"{name} {version}" for name, version in entry.result["versions"].items())
    commit = f" Commit {origin['commit']}." if origin.get("commit") else ""
    return [*blocks, Paragraph(f"{entry.result['device']}; {versions}.{commit}"), _settings(entry)]


def _settings(entry: Entry) -> TableBlock:
    frame = pd.DataFrame([(key, str(x)) for key, x in entry.settings.items()], columns=["setting", "value"])
    return TableBlock("All settings", "", frame.set_index("setting"), folded=True)


def _markdown(whole: Page) -> str:
    """What of a page is words, tables and figures' names."""
    parts = [f"# {whole.title}", whole.lead]
    for section in whole.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            match block:
                case Paragraph():
                    parts.append(block.text)
                case Items():
                    parts.append("\n".join(f"- {item}" for item in block.items))
                case Code():
                    parts.append("\n".join(f"    {line}" for line in block.text.splitlines()))
                case TableBlock() if not block.folded:
                    parts.append(tables.markdown(block.title, block.frame))
                case Picture():
                    parts.append(f"![{block.alt}]({block.name})\n\n{block.text}")
                case Gallery():
                    shown = [f"- {printable(item.name)}: {item.text}" for item in block.items]
                    parts.append("\n".join([f"{block.title}: {block.text}\n", *shown]))
    return "\n\n".join(parts) + "\n"
