"""From batches of rows to batches of rows with answers: what an engine for many machines calls.

    dataset.map_batches(pini_jax.BatchClassifier, fn_constructor_args=("runs/photos",))  # Ray

Spark's `mapInPandas` takes `lambda frames: map(classifier, frames)`, and Beam a `MapElements` over batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pini_jax.core.errors import InputError
from pini_jax.data.datasets.records import Record
from pini_jax.use import classifier, inputs, outputs


class BatchClassifier:
    """Adds `class`, `probability`, `error` and more to batches, the columns of `pini predict`.

    It loads the run where it is made, once for each worker. Batches are mappings of columns, such as NumPy's of
    Ray Data, or data frames of pandas, with the bytes of images, or else their paths.
    """

    def __init__(self, run: str | Path, topk: int = 1, mode: str = "mean", clip: str = ""):
        """Loads what a run exported; `run`, `clip` and `mode` as in `pini predict`.

        Args:
            topk: with another number than 1, `classes` and `probabilities` are added too; 0 for all.

        Raises:
            InputError: it cannot be used.
        """
        self.trained = classifier.load_classifier(run, clip)
        self.columns, self.mode = outputs.columns_of(self.trained, mode, topk), mode

    def __call__(self, batch: Any) -> Any:
        """The batch with the added columns.

        Raises:
            InputError: it has neither a column of bytes nor one of paths.
        """
        numbered = enumerate(_records(batch))
        rows = [
            outputs.make_row(record.id, answer, self.columns)
            for _, record, answer in self.trained.classify_all(numbered, self.mode)
        ]
        added = {key: [row[key] for row in rows] for key in rows[0] if key != "path"} if rows else {}
        if hasattr(batch, "assign"):
            return batch.assign(**added)
        return {**batch, **{key: _column(key, values) for key, values in added.items()}}


def _column(key: str, values: Sequence[Any]) -> np.ndarray:
    if key == "probability":
        return np.array(values, np.float32)  # of None NaN
    if key == "unsure":
        return np.array(values, bool)  # of None False: a column of an engine has one type
    column = np.empty(len(values), object)
    column[:] = ["" if value is None else value for value in values]
    return column


def _records(batch: Mapping[str, Any]) -> list[Record]:
    """The images of a batch."""
    bytes_of = next((batch[key] for key in inputs.IMAGES if key in batch), None)
    names = next((batch[key] for key in inputs.NAMES if key in batch), None)
    if bytes_of is not None:
        said = range(len(bytes_of)) if names is None else names
        return [
            Record(str(name), _content(content), inputs.LABEL)
            for name, content in zip(said, bytes_of, strict=True)
        ]
    if names is None:
        raise InputError(f"a batch has neither images' bytes nor paths; its columns: {', '.join(map(str, batch))}")
    return [Record(str(name), Path(str(name)), inputs.LABEL) for name in names]


def _content(value: Any) -> bytes:
    """The bytes of an image, in a column of their own, or as Hugging Face's datasets have them."""
    return bytes(value["bytes"] if isinstance(value, Mapping) else value)
