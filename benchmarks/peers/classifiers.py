"""The user's job end to end: a few labelled images of each class as features, and the test images classified.

Every contender is a process of its own on the same pack, which has the drawn images and no others to train on:
what chooses by validation cuts its own out of them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import timing
from benchmarks.peers.environments import Environment
from benchmarks.timing import Cost
from pini_jax.data import selection
from pini_jax.data.datasets import packs
from pini_jax.evaluate import metrics
from pini_jax.task.run import labels_of

COLUMNS = ("data", "shots", "contender", "accuracy", "NLL", "seconds", "CPU seconds", "MB installed")


class Contender(NamedTuple):
    """A way to do the job.

    Attributes:
        peer: whose environment it runs in.
        config: of ours, `{}` for the pack; others have a worker.
    """

    peer: str
    config: str = ""


CONTENDERS = {
    "`pini`": Contender("pini_jax", "features:path={}"),
    "`configs/best.py`": Contender("pini_jax", "best:path={}"),
    "`linear_probe`": Contender("pini_jax", "features:path={},method=linear_probe"),
    "LogisticRegressionCV": Contender("scikit_learn"),
    "AutoGluon's SVM": Contender("autogluon"),
}


class Job(NamedTuple):
    """What a contender is given.

    Attributes:
        pack: features of the drawn images, and of all test images.
        folder: of its own.
    """

    pack: Path
    shots: int
    seed: int
    folder: Path


class Outcome(NamedTuple):
    """Of one job."""

    accuracy: float
    nll: float
    cost: Cost


def encode_digits(python: str, path: Path) -> None:
    """The pack that needs no download: the digits by the bundled CLIP."""
    command = [python, "-m", "pini_jax.encode", "digits", "--clip=tiny_clip", f"--output={path}"]
    subprocess.run(command, check=True, capture_output=True)


def measure(
    environments: Mapping[str, Environment], pack: Path, folder: Path, shots: Sequence[int], seeds: Sequence[int]
) -> list[dict]:
    """A row for each number of shots and contender: means over seeds; contenders take turns.

    Args:
        environments: by library; what is not there has no row.
        folder: where jobs go.
    """
    able = {name: contender for name, contender in CONTENDERS.items() if contender.peer in environments}
    rows = []
    for k in shots:
        outcomes: dict[str, list[Outcome | str]] = {name: [] for name in able}
        for seed in (seeds[0], *seeds):
            drawn = draw(pack, k, seed, folder / f"{pack.stem}_{k}_{seed}.npz")
            for name, contender in able.items():
                job = Job(drawn, k, seed, Path(tempfile.mkdtemp(dir=folder)))
                outcomes[name].append(attempt(contender, environments[contender.peer].python, job))
        for name, contender in able.items():
            names = dict(data=pack.stem, shots=k, contender=name)
            counted = summary(outcomes[name][1:])  # the first found nothing in any cache
            rows.append(names | counted | dict(megabytes=environments[contender.peer].megabytes))
    return rows


def draw(source: Path, shots: int, seed: int, path: Path) -> Path:
    """Writes a pack with so many images of each class to train on, and the test images, of another."""
    pack = packs.load_pack(source)
    selected = selection.select_from_pack(pack.findings.accepted(), shots, seed)
    arrays = dict(text=pack.text, classnames=np.array(selected.class_names), logit_scale=pack.logit_scale)
    for split, records in (("train", selected.train), ("test", selected.test)):
        arrays[f"{split}_x"] = np.stack([pack.images[record.id] for record in records])
        arrays[f"{split}_y"] = labels_of(records)
    packs.write_pack(path, arrays)
    return path


def attempt(contender: Contender, python: str, job: Job) -> Outcome | str:
    """What comes of a job, or why nothing does."""
    try:
        return train(contender.config, python, job) if contender.config else fit(contender.peer, python, job)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip().splitlines()[-1][:160]


def train(config: str, python: str, job: Job) -> Outcome:
    """Ours, as a person runs it."""
    settings = f"--config.shots={job.shots}", f"--config.seed={job.seed}", f"--workdir={job.folder}"
    cost = timing.cost([python, "-m", "pini_jax.main", f"--config={config.format(job.pack)}", *settings])
    test = json.loads((job.folder / "result.json").read_text())["test"]["mean"]
    return Outcome(test["accuracy"], test["nll"], cost)


def fit(library: str, python: str, job: Job) -> Outcome:
    """Another's."""
    output = job.folder / "log_p.npy"
    cost = timing.cost([python, "-m", f"benchmarks.peers.workers.{library}", str(job.pack), str(output)])
    with np.load(job.pack) as pack:
        measured = metrics.metrics(np.load(output), pack["test_y"])
    return Outcome(measured.accuracy, measured.nll, cost)


def summary(outcomes: Sequence[Outcome | str]) -> dict:
    """Means over seeds, or why there are none."""
    refusals = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if refusals:
        return dict(refused=refusals[0])
    found = {name: statistics.mean(getattr(x, name) for x in outcomes) for name in ("accuracy", "nll")}
    return found | {name: statistics.median(getattr(x.cost, name) for x in outcomes) for name in Cost._fields}


def line(row: Mapping[str, Any]) -> list[str]:
    """Its cells."""
    names = [row["data"], str(row["shots"]), row["contender"]]
    if "refused" in row:
        return [*names, row["refused"], "", "", "", f"{row['megabytes']:,.0f}"]
    figures = f"{row['accuracy']:.1%}", f"{row['nll']:.3f}", f"{row['wall']:.1f}", f"{row['cpu']:.1f}"
    return [*names, *figures, f"{row['megabytes']:,.0f}"]
