"""Classifies images with a trained run.

    pini predict --workdir=runs/digits three.png seven.png

    pini predict --workdir=runs/digits photos/ more.tar --output=answers.parquet --topk=5

An INPUT is an image, a folder, a list of paths (.txt, .csv or .jsonl; - for standard input), a WebDataset archive
(.tar), or a Parquet file with the bytes of images; each here or in a bucket, as is the output.

Prints a line for every image that can be read: file, class, probability. With --output they are written to a
file instead, lines (.txt), .csv, .jsonl or .parquet; stopped and started again, the command goes on where it was.
Probabilities are calibrated, where the run had held-out images to do it by.
Images that cannot be read are named at the end, on stderr, and the exit status is 1; in a file their places say
why.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, progress, stop
from pini_jax.core.errors import InputError, UsageError
from pini_jax.core.paths import check_address
from pini_jax.core.wording import MOST, listed
from pini_jax.data.datasets.records import Record
from pini_jax.evaluate import prediction
from pini_jax.use import classifier, inputs, outputs
from pini_jax.use.classifier import TrainedClassifier
from pini_jax.use.outputs import Columns, PartialFile, Row

Numbered = Iterator[tuple[int, Record]]
Rows = Iterator[Row]


def define_flags(values: flags.FlagValues) -> None:
    """What is loaded, how it predicts, and where answers go."""
    flags.DEFINE_string(
        "workdir", None, "A run's folder, its injector.safetensors, or hub:owner/name.", flag_values=values
    )
    flags.DEFINE_string("clip", "", "Where the CLIP is now, if not where it was.", flag_values=values)
    flags.DEFINE_enum("mode", "mean", prediction.MODES, "How noise is used.", flag_values=values)
    flags.DEFINE_string("output", "", "File for the answers; its ending says of which kind.", flag_values=values)
    flags.DEFINE_integer("topk", 1, "Classes of every image; 0 for all.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("shard", "1/1", "I/N: every N-th image, from the I-th on.", flag_values=values)


def main(values: flags.FlagValues, images: Sequence[str]) -> None:
    """A row for every image, printed or written."""
    for name in ("workdir", "clip", "output"):
        check_address(f"--{name}", getattr(values, name))
    for image in images:
        check_address("INPUT", image)
    number, of = parse_shard(values.shard)
    if values.output:
        outputs.writer_of(Path(values.output))  # before all else, so that nothing is lost on a wrong name
    trained = classifier.load_classifier(values.workdir, values.clip)
    numbered = itertools.islice(enumerate(inputs.find_images(images)), number - 1, None, of)
    columns = outputs.columns_of(trained, values.mode, values.topk)
    answer = functools.partial(answer_rows, trained, mode=values.mode, columns=columns)
    failures = Failures()
    if not values.output:
        print_rows(failures.watch(answer(numbered)))
    else:
        total = inputs.count_images(images)
        own = None if total is None else len(range(number - 1, total, of))
        given = {key: values[key].value for key in ("mode", "topk", "shard")}
        owner = {"run": trained.fingerprint, "inputs": [*images], **given}
        with outputs.placed(values.output) as output, PartialFile(output, owner) as partial:
            for _ in failures.watch(go_on(partial, numbered, answer, own)):
                pass
            outputs.finish(partial, output, columns)
    failures.report()


def answer_rows(trained: TrainedClassifier, numbered: Numbered, mode: str, columns: Columns) -> Rows:
    """Yields the row of every image, in order."""
    for _, record, answer in trained.classify_all(numbered, mode):
        yield outputs.make_row(record.id, answer, columns)


def print_rows(rows: Rows) -> None:
    """A line for every image that could be read.

    Raises:
        Stopped: somebody asked for it.
    """
    try:
        for row in rows:
            if row["error"] is None:
                print(outputs.line(row), flush=True)
    except stop.Stopped:
        raise stop.Stopped("what was printed is whole; --output would let it go on from there") from None


def go_on(partial: PartialFile, numbered: Numbered, answer: Callable[[Numbered], Rows], total: int | None) -> Rows:
    """Yields the rows that are there, and then all others, which it writes.

    Raises:
        InputError: the inputs are others than when the first ones were written.
    """
    done = 0
    for row in partial.rows():
        _, record = next(numbered, (0, None))
        if record is None or outputs.spelt(record.id) != row["path"]:
            raise InputError(f"the inputs have changed since {partial.path} was begun: remove it")
        done += 1
        yield row
    with progress.bar(total=total, initial=done, unit="image", desc="predicting", delay=2) as bar:
        for row in answer(numbered):
            partial.write(row)
            bar.update()
            yield row


class Failures:
    """The images without an answer: their number, and the reasons of the first ones."""

    def __init__(self) -> None:
        self.seen = self.failed = 0
        self.first: list[str] = []

    def watch(self, rows: Iterable[Row]) -> Rows:
        """Passes rows through, noting those without an answer."""
        for row in rows:
            self.seen += 1
            if row["error"] is not None:
                self.failed += 1
                self.first += [row["error"]] if len(self.first) < MOST else []
            yield row

    def report(self) -> None:
        """Raises InputError if there are any."""
        if self.failed:
            more = f"; and {self.failed - len(self.first)} more" if self.failed > len(self.first) else ""
            raise InputError(f"{self.failed} of {self.seen} images: {listed(self.first, '; ')}{more}")


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8).

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard={text} must be I/N, with I from 1 to N")
    return int(found[1]), int(found[2])


COMMAND = command.Command("pini predict", __doc__, define_flags, main, required=("workdir",), argument="INPUT")

if __name__ == "__main__":
    command.run(COMMAND)
