"""Trains every method on the same images, tunes it by validation, and tests it.

    pini compare --config=features:path=dtd_vitb32.npz --workdir=runs/compare
    pini report runs/compare

A contender is a method with its paper's settings on the data and towers of the config, or noise of a kind. Each is
trained with every combination of its search space (`search` of its class, or `NOISE` here), at most `BUDGET` of
them; for every number of shots and every seed the combination with the best validation accuracy is chosen, and of
equals the one with the lowest validation NLL. Test data are never used to choose. comparison.json lists what was
chosen, by earlier calls too, until the same contender, shots and seed come again; a warning names what is still
below zero-shot CLIP on validation images. With --nosearch every contender keeps its paper's settings.

Beside the accuracies stand NLL and ECE, raw and at a temperature that is fitted for every method in the same way
(`evaluate.calibration`), and what a chosen run has taken: seconds from loading to evaluation, and the most memory
that the process, or the accelerator, held. Runs that train side by side take both together.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

import copy
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import flags

from pini_jax import config as configs
from pini_jax.configs import structured
from pini_jax.core import command, config_file, paths
from pini_jax.core.errors import InputError, UsageError, did_you_mean
from pini_jax.data.datasets import sources
from pini_jax.launch import sweep
from pini_jax.methods import registry
from pini_jax.methods.objective import Objective
from pini_jax.noise import sites
from pini_jax.report import collect as collection
from pini_jax.report import terminal
from pini_jax.runs import folder, population
from pini_jax.runs.staged import staged
from pini_jax.train.watch import UNWATCHED, Watch

BUDGET = 8
NOISE = {"optim.lr": (1e-3, 4e-3, 1.6e-2)}
LOG = logging.getLogger("pini_jax.compare")


class Contender(NamedTuple):
    """A method to compare: its settings, and the values of some that are tried."""

    settings: ml_collections.ConfigDict
    search: Mapping[str, Sequence[Any]]


def contenders(config: ml_collections.ConfigDict) -> dict[str, Contender]:
    """All that can be trained on the data of a config, by name: zero-shot CLIP's ensemble, rivals, noise."""
    ensemble = configs.with_method(config, "zero_shot")
    ensemble.template = "imagenet_80"
    has_images = sources.has_images(config.dataset)
    known = {"zero_shot: imagenet_80": Contender(ensemble, {})} if has_images else {}
    for name, method in registry.METHODS.items():
        if name != "zero_shot" and not registry.makes_noise(name):
            known[name] = Contender(configs.with_method(config, name), method.search)
    for site in sites.SITES.values():
        for kind in site.generators:
            known[f"{site.name}: {kind}"] = Contender(_with_noise(config, {site.name: {"generator": kind}}), NOISE)
    known["released"] = Contender(_with_noise(config, configs.Config().noise), NOISE)
    for name, image_noise in structured.VARIANTS.items():
        known[name] = Contender(structured.recipe(_with_noise(config, {}), image_noise), {})
    if has_images:
        return known
    return {name: contender for name, contender in known.items() if not _needs_towers(contender.settings)}


def _with_noise(
    config: ml_collections.ConfigDict, noise: Mapping[str, Mapping[str, Any]]
) -> ml_collections.ConfigDict:
    config = copy.deepcopy(config)
    config.method, config.options, config.noise = "pini", {}, noise
    return config


def _needs_towers(settings: ml_collections.ConfigDict) -> bool:
    """Whether a pack of features is not enough."""
    plain = settings.to_dict()
    method = registry.build_method(plain["method"], plain["options"], plain["noise"], Objective())
    return method.traits.needs_towers


def chosen(results_of: Mapping[Path, Mapping[str, Any]]) -> Path:
    """The folder of the run with the best validation accuracy; of equals, with the lowest validation NLL.

    Raises:
        InputError: there are no validation images.
    """

    def quality(run: Path) -> tuple[float, float]:
        if results_of[run]["val"] is None:
            raise InputError(f"{run} has no validation images to choose by")
        measured = results_of[run]["val"]["mean"]
        return measured["accuracy"], -measured["nll"]

    return max(results_of, key=quality)


def train(
    contender: Contender, shots: int, seeds: Sequence[int], workdir: Path, watch: Watch = UNWATCHED
) -> list[Path]:
    """The chosen run of every seed."""
    size = math.prod(map(len, contender.search.values()))
    if size > BUDGET:
        raise ValueError(f"{size} combinations, and all have a budget of {BUDGET}")
    several = {"population": dict(contender.search) | {"shots": (shots,), "seed": tuple(seeds)}}
    members = population.members(contender.settings.to_dict() | several)
    try:
        population.train_population(members, workdir, watch)
    except InputError as error:  # some combination has diverged, or none can be
        LOG.warning("%s: %s", workdir, error)
    by_seed: dict[int, dict[Path, Mapping[str, Any]]] = {seed: {} for seed in seeds}
    for member in members:
        if (result := folder.finished(member.config, workdir / member.name)) is not None:
            by_seed[member.config.seed][workdir / member.name] = result
    if not all(by_seed.values()):
        raise InputError(f"{workdir} has a seed without any result")
    return [chosen(results_of) for results_of in by_seed.values()]


def chosen_before(workdir: Path) -> dict[str, Any]:
    """What earlier calls have chosen, of runs that are still there: it stands until its contender comes again."""
    file = workdir / collection.COMPARISON
    known = paths.read_object(file) if file.exists() else {}
    return {run: about for run, about in known.items() if (workdir / run / paths.RESULT).exists()}


def takes_its_place(old: Path, folders: Sequence[Path]) -> bool:
    """Whether one of the chosen runs is of the contender, shots and seed of an old one."""

    def seed(run: Path) -> int:
        return collection.read_settings(run)["seed"]

    return any(run.parent == old.parent and seed(run) == seed(old) for run in folders)


def warn_of_worse(what: str, folders: Sequence[Path]) -> None:
    """Says which chosen runs are below zero-shot CLIP on validation images."""
    for run in folders:
        if below := terminal.below_zero_shot(folder.read_sealed(run / paths.RESULT)):
            LOG.warning("%s: %s, in %s", what, below, run)


def define_flags(values: flags.FlagValues) -> None:
    """The data, the contenders, and what each is trained with."""
    config_file.define_flag(values)
    flags.DEFINE_string("workdir", None, "Folder of the runs' folders.", flag_values=values)
    text = "Contenders to take; all that the data allow if there is none."
    flags.DEFINE_list("methods", [], text, flag_values=values)
    text = "Whether search spaces are tried; --nosearch leaves every contender its own settings."
    flags.DEFINE_boolean("search", True, text, flag_values=values)
    sweep.define_axes(values)


def taken(methods: Sequence[str], known: Mapping[str, Contender]) -> dict[str, Contender]:
    """The contenders of these names, or all.

    Raises:
        UsageError: one is unknown.
    """
    for name in methods:
        if name not in known:
            raise UsageError(f"there is no contender {name!r}{did_you_mean(name, known)}")
    return {name: known[name] for name in methods or known}


def untuned(contesting: Mapping[str, Contender]) -> dict[str, Contender]:
    """Contenders that try nothing."""
    return {name: contender._replace(search={}) for name, contender in contesting.items()}


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Makes the table."""
    logging.getLogger("pini_jax").setLevel(logging.WARNING)  # a line for every contender, and none for its runs
    LOG.setLevel(logging.INFO)
    shots, seeds = sweep.axes(values).values()
    paths.check_address("--workdir", values.workdir)
    with staged(values.workdir) as (workdir, watch):
        table = compare(values, workdir, shots, seeds, watch)
    print(table)


def compare(
    values: flags.FlagValues, workdir: Path, shots: Sequence[int], seeds: Sequence[int], watch: Watch = UNWATCHED
) -> str:
    """Trains all contenders, and makes the table."""
    chosen_runs = chosen_before(workdir)
    contesting = taken(values.methods, contenders(values.config))
    if not values.search:
        contesting = untuned(contesting)
    for (name, contender), k in itertools.product(contesting.items(), shots):
        LOG.info("%s, %d shots", name, k)
        jax.clear_caches()  # of compiled programs that no other contender runs
        try:
            folders = train(contender, k, seeds, workdir / name / f"shots_{k}", watch)
        except InputError as error:
            LOG.warning("%s has no result with %d shots: %s", name, k, error)
            continue
        warn_of_worse(f"{name} with {k} shots", folders)
        chosen_runs = {
            run: about for run, about in chosen_runs.items() if not takes_its_place(workdir / run, folders)
        }
        chosen_runs |= {str(run.relative_to(workdir)): {"contender": name} for run in folders}
        paths.write_json(workdir / collection.COMPARISON, chosen_runs)
    return terminal.comparison(collection.read_runs([workdir]))


COMMAND = command.Command("pini compare", __doc__, define_flags, main, required=("config", "workdir"))

if __name__ == "__main__":
    command.run(COMMAND)
