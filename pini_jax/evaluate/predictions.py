"""predictions.parquet: what a run has answered, image by image; all that is measured follows from it.

| column                  | what, of one image in one mode                                                        |
|-------------------------|---------------------------------------------------------------------------------------|
| `split`                 | `val`, `test`, `new` for the new classes of base-to-new, a dataset of `transfer`, or  |
|                         | `held_out`, what calibrates where it is more than `val`                               |
| `mode`                  | `zero_shot`; the method's `mean`, `sample`, `marginal`, or `mean` alone               |
| `path`                  | its name within the dataset                                                           |
| `label`                 | number of its class; -1 for none of them                                              |
| `classes`               | numbers of the likeliest classes, at most KEPT, the likeliest first                   |
| `log_probabilities`     | theirs                                                                                |
| `label_log_probability` | the label's, NaN where there is none                                                  |
| `label_expected`        | mean over draws of log q(label)                                                       |
| `squares`, `entropy`    | of all classes: sum p^2 and -sum p log p                                              |
| `draw_entropy`          | mean over draws of the entropy of q                                                   |
| `energy`                | mean over draws of log sum exp(logit)                                                 |
| `match`                 | the largest of the softmax of log p over CLIP's scale: of cosines, for zero-shot CLIP |
| `normaliser`            | log sum p^(1/T), T the mode's temperature: log p, calibrated, is log p / T minus this |
| `calibrated_squares`    | sum p^2 of calibrated probabilities                                                   |

The file's metadata, JSON under `pini_jax`, has the class names of every split, and the temperatures.

    kept = read_predictions(run / FILE, result["predictions_sha256"])
    kept.answers["test"]["mean"].predicted
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from arro3.core import Array, ChunkedArray, DataType, Table, list_array, list_flatten, list_offsets
from arro3.io import read_parquet, write_parquet
from jaxtyping import Bool, Float, Int

from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.evaluate.prediction import MODES, Predictions

FILE = "predictions.parquet"  # in the folder of a run
KEPT = 64  # classes of an image whose log-probabilities are kept: all of most datasets
AT_ONCE = 1024  # images
ALL_MODES = ("zero_shot", *MODES)
KEY = b"pini_jax"
AGAIN = "without its result.json, the run makes both again when its command is repeated"
LISTS = ("classes", "log_probabilities")


class Answers(NamedTuple):
    """The columns of b images of one split in one mode; k classes of each are kept.

    Attributes:
        temperature: of the mode, by which `normaliser` and `calibrated_squares` were made; 1 leaves probabilities
            as they are.
    """

    path: Sequence[str]
    label: Int[np.ndarray, "b"]
    classes: Int[np.ndarray, "b k"]
    log_probabilities: Float[np.ndarray, "b k"]
    label_log_probability: Float[np.ndarray, "b"]
    label_expected: Float[np.ndarray, "b"]
    squares: Float[np.ndarray, "b"]
    entropy: Float[np.ndarray, "b"]
    draw_entropy: Float[np.ndarray, "b"]
    energy: Float[np.ndarray, "b"]
    match: Float[np.ndarray, "b"]
    normaliser: Float[np.ndarray, "b"]
    calibrated_squares: Float[np.ndarray, "b"]
    temperature: float

    def labelled(self) -> Answers:
        """The answers for images with a label (itself, if all have one)."""
        return self if (self.label >= 0).all() else self._take(self.label >= 0)

    def unlabelled(self) -> Answers:
        """The answers for images of none of the classes."""
        return self._take(self.label < 0)

    def _take(self, chosen: Bool[np.ndarray, "b"]) -> Answers:
        rows = np.flatnonzero(chosen).tolist()
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS if name != "path"}
        return self._replace(path=[self.path[i] for i in rows], **columns)

    @property
    def predicted(self) -> Int[np.ndarray, "b"]:
        """The likeliest class of each image; of equally likely ones the first."""
        return self.classes[:, 0]

    @property
    def calibrated(self) -> Float[np.ndarray, "b k"]:
        """log p of the classes that are kept, at the temperature."""
        return self.log_probabilities / self.temperature - self.normaliser[:, None]

    @property
    def label_calibrated(self) -> Float[np.ndarray, "b"]:
        """log p of the label, likewise."""
        return self.label_log_probability / self.temperature - self.normaliser


COLUMNS = tuple(name for name in Answers._fields if name != "temperature")


class Kept(NamedTuple):
    """The content of a file of predictions.

    Attributes:
        answers: by split and mode.
        class_names: by split.
    """

    answers: Mapping[str, Mapping[str, Answers]]
    class_names: Mapping[str, Sequence[str]]

    def by_mode(self, split: str) -> dict[str, Answers]:
        """The answers of zero-shot CLIP and every mode; a method that draws nothing has the same in all modes."""
        found = self.answers[split]
        return {"zero_shot": found["zero_shot"]} | {mode: found.get(mode, found["mean"]) for mode in MODES}

    @property
    def calibrated_on(self) -> str:
        """The split used for calibration, on which nothing was trained; "" if there is none."""
        return next((split for split in ("held_out", "val") if split in self.answers), "")

    def held_out(self) -> dict[str, Answers]:
        """The answers used for calibration, by mode."""
        return self.by_mode(self.calibrated_on) if self.calibrated_on else {}

    @property
    def temperatures(self) -> dict[str, float]:
        """By mode, in the order that files have had them in."""
        own = self.by_mode(next(iter(self.answers)))
        return {mode: own[mode].temperature for mode in ((*MODES, "zero_shot") if self.calibrated_on else own)}


def answers(
    paths: Sequence[str], labels: Int[np.ndarray, "b"], predicted: Predictions, temperature: float
) -> Answers:
    """Turns predictions into what is stored of them."""
    starts = range(0, max(len(labels), 1), AT_ONCE)
    blocks = [slice(start, start + AT_ONCE) for start in starts]
    parts = [_answers(labels[rows], Predictions(*(x[rows] for x in predicted)), temperature) for rows in blocks]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS if name != "path"
    }
    return Answers(paths, **columns, temperature=temperature)


def _answers(labels: Int[np.ndarray, "b"], predicted: Predictions, temperature: float) -> Answers:
    """Of some images, without their paths."""
    log_p = predicted.log_probabilities
    wide = log_p.astype(np.float64)
    classes = likeliest(log_p)
    calibrated = wide / temperature
    top = calibrated.max(-1)
    normaliser = top + np.log(np.exp(calibrated - top[:, None]).sum(-1))
    return Answers(
        path=(),
        label=labels.astype(np.int32),
        classes=classes,
        log_probabilities=np.take_along_axis(log_p, classes, axis=-1),
        label_log_probability=_label_values(wide, labels),
        label_expected=_label_values(predicted.expected.astype(np.float64), labels),
        squares=np.exp(2 * wide).sum(-1),
        entropy=-(np.exp(wide) * wide).sum(-1),
        draw_entropy=predicted.draw_entropy.astype(np.float64),
        energy=predicted.energy.astype(np.float64),
        match=predicted.match.astype(np.float64),
        normaliser=normaliser,
        calibrated_squares=np.exp(2 * (calibrated - normaliser[:, None])).sum(-1),
        temperature=temperature,
    )


def likeliest(log_probabilities: Float[np.ndarray, "b c"]) -> Int[np.ndarray, "b k"]:
    """The KEPT likeliest classes of each image, in descending order; of equally likely ones the first."""
    falling = -log_probabilities
    if falling.shape[1] <= KEPT:
        return np.argsort(falling, axis=-1, kind="stable").astype(np.int32)
    some = np.sort(np.argpartition(falling, KEPT - 1, axis=-1)[:, :KEPT], axis=-1)
    values = np.take_along_axis(falling, some, axis=-1)
    found = np.take_along_axis(some, np.argsort(values, axis=-1, kind="stable"), axis=-1)
    # Of classes that are equal to the last one kept, a partition takes any.
    tied = (falling <= values.max(-1, keepdims=True)).sum(-1) > KEPT
    found[tied] = np.argsort(falling[tied], axis=-1, kind="stable")[:, :KEPT]
    return found.astype(np.int32)


def without_draws(log_probabilities: Float[np.ndarray, "b c"], labels: Int[np.ndarray, "b"]) -> Answers:
    """Answers from probabilities alone, at temperature 1."""
    unknown = np.full(len(labels), np.nan)
    predicted = Predictions(log_probabilities, log_probabilities, unknown, unknown, unknown)
    return answers([""] * len(labels), np.asarray(labels), predicted, 1.0)


def _label_values(values: Float[np.ndarray, "b c"], labels: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
    return np.where(labels < 0, np.nan, values[np.arange(len(labels)), labels])


# ------------------------------------------------------------------------------------------------------ the file


def write_predictions(path: Path, kept: Kept) -> str:
    """Writes the file at once, and returns its SHA-256; equal predictions make equal files."""
    groups = [(split, mode, found) for split, of_split in kept.answers.items() for mode, found in of_split.items()]
    sizes = [len(found.label) for _, _, found in groups]
    columns: dict[str, Any] = {
        "split": _repeated([x[0] for x in groups], sizes),
        "mode": _repeated([x[1] for x in groups], sizes),
    }
    for name in COLUMNS:
        columns[name] = _column(name, [getattr(found, name) for _, _, found in groups])
    said = {"class_names": kept.class_names, "temperatures": kept.temperatures}
    table = Table.from_pydict(columns)
    table = table.with_schema(table.schema.with_metadata({KEY: json.dumps(said).encode()}))
    buffer = io.BytesIO()
    write_parquet(table, buffer, compression="zstd(1)")
    paths.write_file(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _repeated(words: Sequence[str], sizes: Sequence[int]) -> Array:
    return Array(np.repeat(words, sizes).tolist(), type=DataType.string())


def _column(name: str, parts: Sequence[np.ndarray | Sequence[str]]) -> Array:
    """A column of several groups, one after the other."""
    if name == "path":
        return Array([x for part in parts for x in part], type=DataType.string())
    if name not in LISTS:
        return Array.from_numpy(np.concatenate(parts))
    lengths = np.concatenate([np.full(len(part), np.shape(part)[1], np.int32) for part in parts])
    values = np.concatenate([np.ravel(part) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return list_array(Array.from_numpy(offsets), Array.from_numpy(values))


def read_predictions(path: Path, sha256: str) -> Kept:
    """Reads what `write_predictions` wrote.

    Args:
        sha256: as result.json has it.

    Raises:
        InputError: there is no such file, or it is not the one of the hash.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}: {AGAIN}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:  # and the parser, which panics, sees no damaged file
        raise InputError(f"{path} does not match its hash: it was changed, or is damaged; {AGAIN}")
    table = read_parquet(io.BytesIO(content)).read_all()
    said = json.loads(table.schema.metadata[KEY])
    found: dict[str, dict[str, Answers]] = {}
    for split, mode, rows in _groups(table):
        columns: dict[str, Any] = {name: _values(name, table.column(name), rows) for name in COLUMNS}
        found.setdefault(split, {})[mode] = Answers(**columns, temperature=said["temperatures"][mode])
    return Kept(found, said["class_names"])


def _groups(table: Table) -> Iterator[tuple[str, str, slice]]:
    """Splits and modes with their rows, which follow each other."""
    keys = list(zip(table.column("split").to_pylist(), table.column("mode").to_pylist(), strict=True))
    starts = [i for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key]
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        yield *keys[start], slice(start, end)


def _values(name: str, column: ChunkedArray, rows: slice) -> np.ndarray | list[str]:
    whole = column.combine_chunks()
    if name == "path":
        return whole.slice(rows.start, rows.stop - rows.start).to_pylist()
    if name not in LISTS:
        return whole.to_numpy()[rows]
    offsets = list_offsets(whole).to_numpy()[rows.start : rows.stop + 1]
    return list_flatten(whole).to_numpy()[offsets[0] : offsets[-1]].reshape(rows.stop - rows.start, -1)
