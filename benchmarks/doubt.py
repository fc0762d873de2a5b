"""The tables of docs/doubt.md, from finished runs and from classes that are left out.

    pini compare --config=features:path=dtd_vitb32.npz --nosearch --shots=1,4,16 --workdir=runs/dtd
    python -m benchmarks.doubt runs/dtd runs/cars
    python -m benchmarks.doubt unknown dtd_vitb32.npz cars_vitb32.npz --workdir=runs/unknown

The second prints, for every method and number of shots of such sweeps, raw and calibrated NLL and ECE, and the
coverage and size of sets, in the mean over seeds. The last trains methods on some of a pack's classes and asks
how well test images of those are told from others. `choose`: trained on the first quarter of the classes, the
second quarter is unknown; by this table the default score is chosen. `report`: trained on the first half, the
other half is unknown; and, as `kind`, the test images of the other packs. Mahalanobis distances are those of image
features to the classes' means under the covariance that `methods.gaussian_classes` has for the noise.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pini_jax.config import Config
from pini_jax.configs import features
from pini_jax.core import runtime
from pini_jax.evaluate import rejection
from pini_jax.evaluate.rejection import Rejection
from pini_jax.launch import compare
from pini_jax.methods import gaussian_classes, held_out
from pini_jax.report import collect
from pini_jax.report.collect import Entry
from pini_jax.runs import evaluation, population
from pini_jax.task import run as runs

MODES = ("mean", "sample", "marginal")
METHODS = ("gda", "tip_adapter", "image_features: cross_attention", "structured", "empirical_bayes")
WORTH, SHRUNK = 4.0, 0.3  # k and r of `gaussian_classes`
KEYS = ("train_x", "train_y", "test_x", "test_y")


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """In Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def mean(values: Sequence[float]) -> str:
    """Of several runs, to three digits."""
    return f"{np.mean(values):.3f}"


# --------------------------------------------------------------------------------------------- of finished runs


def grouped(folders: Sequence[Path]) -> dict[tuple[str, str, int], list[Entry]]:
    """Runs by dataset, method and shots."""
    groups: dict[tuple[str, str, int], list[Entry]] = {}
    for entry in itertools.chain.from_iterable(collect.read_runs([folder]) for folder in folders):
        key = Path(entry.result["dataset"]).stem, entry.label, entry.result["shots"]
        groups.setdefault(key, []).append(entry)
    return dict(sorted(groups.items()))


def metrics_of(entry: Entry, mode: str) -> Mapping[str, float]:
    """Of the test images."""
    return entry.result["zero_shot"] if mode == "zero_shot" else entry.result["test"][mode]


def is_drawn(entry: Entry) -> bool:
    """Whether modes differ."""
    return entry.result["test"]["mean"] != entry.result["test"]["sample"]


def calibration(groups: Mapping[tuple[str, str, int], Sequence[Entry]]) -> str:
    """A table for each dataset: NLL and ECE, raw and calibrated, by method, mode and shots."""
    datasets = dict.fromkeys(dataset for dataset, _, _ in groups)
    return "\n".join(
        calibration_on(dataset, {key[1:]: entries for key, entries in groups.items() if key[0] == dataset})
        for dataset in datasets
    )


def calibration_on(dataset: str, groups: Mapping[tuple[str, int], Sequence[Entry]]) -> str:
    """The one of a dataset."""
    cells: dict[str, dict[tuple[str, int], str]] = {}
    for (method, shots), entries in groups.items():
        modes = MODES if is_drawn(entries[0]) else MODES[:1]
        for mode in ("zero_shot", *modes):
            measured = [metrics_of(entry, mode) for entry in entries]
            title = "zero-shot CLIP" if mode == "zero_shot" else f"{method}, {mode}" if len(modes) > 1 else method
            for name, places in (("nll", 2), ("ece", 3)):
                raw, own = (np.mean([x[key] for x in measured]) for key in (name, f"calibrated_{name}"))
                cells.setdefault(title, {})[name, shots] = f"{raw:.{places}f} → {own:.{places}f}"
    columns = [(name, shots) for name in ("nll", "ece") for shots in sorted({k for _, k in groups})]
    titles = (dataset, *(f"{name.upper()}, {shots}" for name, shots in columns))
    rows = [[title, *(row.get(column, "") for column in columns)] for title, row in cells.items()]
    return table(titles, sorted(rows, key=lambda row: row[0] != "zero-shot CLIP"))


def overall(groups: Mapping[tuple[str, str, int], Sequence[Entry]]) -> str:
    """Over all runs: in the mean, and how many a temperature has made worse."""
    entries = [entry for group in groups.values() for entry in group]
    rows = []
    for mode in ("zero_shot", *MODES):
        found = [metrics_of(entry, mode) for entry in entries]
        raw, own = (np.array([x[name] for x in found]) for name in ("nll", "calibrated_nll"))
        ece = [mean([x[name] for x in found]) for name in ("ece", "calibrated_ece")]
        worst = (own - raw).max()
        rows.append([mode, len(found), mean(raw), mean(own), *ece, int((own > raw).sum()), f"{worst:+.3f}"])
    titles = ("mode", "runs", "NLL", "calibrated", "ECE", "calibrated", "worse NLL in", "by at most")
    return table(titles, rows)


def sets(groups: Mapping[tuple[str, str, int], Sequence[Entry]], mode: str = "mean") -> str:
    """Coverage and mean size, by data, shots and held-out images, over all methods and seeds."""
    of_shots: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for (dataset, _, shots), entries in groups.items():
        for entry in entries:
            of_shots.setdefault((dataset, shots, entry.result["doubt"]["held_out"]), []).append(
                entry.result["doubt"]
            )
    rows = []
    for key, doubts in sorted(of_shots.items()):
        row = [*key, len(doubts), "{:.3f} to {:.3f}".format(*doubts[0]["promised_coverage"])]
        for name in ("lac", "aps"):
            found = [doubt["modes"][mode]["sets"][name] for doubt in doubts]
            covers = [x["coverage"] for x in found]
            row += [mean(covers), f"{min(covers):.3f} to {max(covers):.3f}", mean([x["mean_size"] for x in found])]
        rows.append(row)
    titles = ("data", "shots", "held out", "runs", "promised", "LAC covers", "from, to", "size")
    return table((*titles, "APS covers", "from, to", "size"), rows)


# ------------------------------------------------------------------------------------- classes that are left out


class Case(NamedTuple):
    """Classes that are trained on, and the images that are of none of them.

    Attributes:
        stage: `choose`, `report` or `kind`.
    """

    stage: str
    known: Path
    unknown: Path


def cut(pack: Path, labels: range, path: Path) -> Path:
    """A pack of some classes of another."""
    with np.load(pack) as whole:
        taken = {key: np.isin(whole[f"{key[:-1]}y"], labels) for key in KEYS}
        arrays = {key: whole[key][taken[key]] for key in KEYS}
        arrays |= {key: arrays[key] - labels.start for key in KEYS if key.endswith("y")}
        own = {"text": whole["text"][labels], "classnames": whole["classnames"][labels]}
    np.savez(path, **arrays, **own)
    return path


def cases(packs: Sequence[Path], workdir: Path) -> Iterator[Case]:
    """Of every pack, cut into files of the folder."""
    for pack in packs:
        with np.load(pack) as whole:
            classes = len(whole["classnames"])
        half, quarter = -(-classes // 2), -(-classes // 4)
        for stage, known, end in (("choose", quarter, half), ("report", half, classes)):
            names = [workdir / f"{pack.stem}_{stage}_{kind}.npz" for kind in ("known", "unknown")]
            files = cut(pack, range(known), names[0]), cut(pack, range(known, end), names[1])
            yield Case(stage, *files)
        yield from (Case("kind", files[0], other) for other in packs if other != pack)


def rejections(case: Case, method: str, shots: int, seeds: Sequence[int]) -> Iterator[tuple[str, str, Rejection]]:
    """Mode, score, and how well it tells, of every seed."""
    settings = compare.contenders(features.get_config(f"path={case.known.resolve()}"))[method].settings.to_dict()
    members = population.members(settings | {"population": {"shots": (shots,), "seed": tuple(seeds)}})
    workdir = case.known.with_suffix("") / method.replace(": ", "_")
    population.train_population(members, workdir)
    for member in members:
        _, found = evaluation.evaluate(workdir / member.name, f"features:{case.unknown.resolve()}")
        by_mode = found["rejection"]
        draws = by_mode["mean"] != by_mode["marginal"]
        for mode, score in itertools.product(by_mode, rejection.SCORES):
            if score != "agreement" or (mode == "marginal" and draws):
                yield mode, score, Rejection(**by_mode[mode]["scores"][score])
        yield "features", "mahalanobis", distances(member.config, case)


def distances(config: Config, case: Case) -> Rejection:
    """By the squared distance to the nearest class, (f - m_c)^T S^-1 (f - m_c), of unit features."""
    shared = runs.share(config)
    train = runs.plan(config, Path(), shared).data.train
    rows = held_out.unit(np.asarray(shared.frozen.images(train, "features")))
    shots = gaussian_classes.Shots(rows, runs.labels_of(train), np.ones(len(rows)), np.arange(len(rows)))
    known = gaussian_classes.means(shots, held_out.unit(np.asarray(shared.task.text.features)[0]))
    white = gaussian_classes.covariance(shots, known, WORTH).shrunk(SHRUNK).whitener()
    counts = known.counts[:, None]
    centres = (counts * known.observed + 4 * WORTH * known.predicted) / (counts + 4 * WORTH) @ white

    def nearest(path: Path) -> np.ndarray:
        with np.load(path) as pack:
            x = held_out.unit(pack["test_x"]) @ white
        return -(np.square(x).sum(1)[:, None] - 2 * x @ centres.T + np.square(centres).sum(1)).min(1)

    return rejection.separation(nearest(case.known), nearest(case.unknown))


def unknown(
    packs: Sequence[Path], workdir: Path, methods: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
) -> None:
    """Prints a table of each stage, over packs, methods, shots and seeds."""
    workdir.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[tuple[str, str], list[Rejection]]] = {}
    for case, method, k in itertools.product(list(cases(packs, workdir)), methods, shots):
        if method == "gda" and k == 1:
            continue  # it needs two images of a class
        for mode, score, how_well in rejections(case, method, k, seeds):
            found.setdefault(case.stage, {}).setdefault((mode, score), []).append(how_well)
    for stage, of_stage in found.items():
        rows = [
            [mode, score, len(x), mean([one.auroc for one in x]), mean([one.fpr for one in x])]
            for (mode, score), x in of_stage.items()
        ]
        rows.sort(key=lambda row: row[3], reverse=True)
        print(f"\n{stage}\n\n{table(('mode', 'score', 'runs', 'AUROC', 'FPR at 95 %'), rows)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=str, help="folders of runs; or `unknown`, and feature packs")
    parser.add_argument("--workdir", type=Path, default=Path("runs/unknown"))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    runtime.prepare()
    if given.paths[0] == "unknown":
        unknown([Path(x) for x in given.paths[1:]], given.workdir, given.methods, given.shots, given.seeds)
    else:
        groups = grouped([Path(x) for x in given.paths])
        print("\n".join([overall(groups), sets(groups), calibration(groups)]))
