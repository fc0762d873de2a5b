"""Beside other libraries, on equal weights and equal images: python -m benchmarks.peers.

`towers`: a ViT-B/16 CLIP and SigLIP of random weights, saved by transformers, in keras-hub (JAX backend, weights
copied by a script), jimm, transformers (PyTorch) and here, in float32. Errors are those of un-normalised features
against transformers, relative to the greatest value. `--images` and `--texts` go through at a time: `texts/s` as
fast as the library has them (up to the longest, or what they share once), `whole` all 77 or 64 tokens of each.
Libraries take turns; rates are the median, and in brackets the lowest and the highest. `load` is from the file to
the model without imports, `compile` what first calls take beyond later ones, memory the greatest resident of the
process.

`formats`: small models in the formats there are, by each library's reader; read means that features are right.

`job`: a few labelled images of each class as features, and the test images classified, from the start of a process
to its end: here, by scikit-learn's LogisticRegressionCV, and by the support vector machine of AutoGluon's few-shot
learner. Accuracy and NLL are means over seeds, seconds medians. The data are the digits by the bundled CLIP, and
feature packs that are named.

Every library is installed into an environment of its own, which the first call makes (some GB in all) and later
ones find. `MB installed` is all that is in it. What cannot be installed has no rows, and it is said why. With
--save the line of JSON is also kept in results/peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import inputs, timing
from benchmarks.peers import classifiers, environments, towers
from benchmarks.peers.environments import Environment
from pini_jax.core import paths

RESULT = Path(__file__).parents[1] / "results" / "peers.json"
OURS = "pini_jax"
TOWERS = (OURS, "keras_hub", "jimm", "transformers")


def measure_towers(able: Mapping[str, Environment], chosen: argparse.Namespace, folder: Path) -> list[dict]:
    """Prints the table of the towers."""
    batch = towers.Batch(chosen.images, chosen.texts)
    rows = towers.measure(_pythons(able), folder, chosen.repeats, batch=batch)
    print(timing.table(towers.COLUMNS, [towers.line(row) for row in rows]))
    return rows


def read_formats(able: Mapping[str, Environment], chosen: argparse.Namespace, folder: Path) -> list[dict]:
    """Prints the table of the formats."""
    rows = towers.read_formats(_pythons(able), folder)
    print(towers.format_table(rows))
    return rows


def do_job(able: Mapping[str, Environment], chosen: argparse.Namespace, folder: Path) -> list[dict]:
    """Prints the table of the job."""
    digits = folder / "digits.npz"
    classifiers.encode_digits(able[OURS].python, digits)
    given = folder, chosen.shots, chosen.seeds
    rows = [row for pack in (digits, *chosen.packs) for row in classifiers.measure(able, pack, *given)]
    print(timing.table(classifiers.COLUMNS, [classifiers.line(row) for row in rows]))
    return rows


class Part(NamedTuple):
    """What the command measures.

    Attributes:
        keys: what tells its rows apart.
    """

    measure: Callable[[Mapping[str, Environment], argparse.Namespace, Path], list[dict]]
    libraries: tuple[str, ...]
    keys: tuple[str, ...]


PARTS = {
    "towers": Part(measure_towers, TOWERS, ("model", "library")),
    "formats": Part(read_formats, TOWERS, ("format",)),
    "job": Part(do_job, (OURS, "scikit_learn", "autogluon"), ("data", "shots", "contender")),
}


def _pythons(able: Mapping[str, Environment]) -> dict[str, str]:
    return {library: able[library].python for library in TOWERS if library in able}


def install(parts: Sequence[str], cache: Path) -> dict[str, Environment]:
    """The environments of these parts; of a library that cannot be installed it is said why."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for library in dict.fromkeys(library for part in parts for library in PARTS[part].libraries):
        try:
            found[library] = environments.make(library, cache)
        except environments.Refused as refused:
            print(f"{library} cannot be installed here: {refused}")
    return found


def measure(parts: Sequence[str], able: Mapping[str, Environment], chosen: argparse.Namespace) -> list[dict]:
    """All rows, each with its part and name, and the load of the machine before the part."""
    rows = [dict(part="environments", name=library, **x._asdict()) for library, x in able.items()]
    for row in rows:
        del row["python"]
    for name in parts:
        part, load = PARTS[name], os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            found = part.measure(able, chosen, Path(folder))
        rows += [
            dict(part=name, name=" ".join(str(row[key]) for key in part.keys), load=load, **row) for row in found
        ]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each part, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--packs", nargs="*", type=Path, default=[], help="feature packs beside the digits")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=5, help="turns of the towers")
    parser.add_argument("--images", type=int, default=inputs.BATCH, help="at a time")
    parser.add_argument("--texts", type=int, default=inputs.TEXTS, help="at a time")
    parser.add_argument("--cache", type=Path, default=paths.cache_folder() / "peers", help="of environments")
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    able = install(chosen.parts, chosen.cache)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # compiled programs and features are of this call alone
        found = timing.machine() | dict(rows=measure(chosen.parts, able, chosen))
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("part", "name"))


if __name__ == "__main__":
    main()
