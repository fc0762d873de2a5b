"""A whole run, or several over one frozen half: from configs to result.json."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core import peak, stop
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed
from pini_jax.data.datasets.packs import has_direction
from pini_jax.data.datasets.records import Dataset, Record
from pini_jax.evaluate import doubt, prediction, predictions
from pini_jax.evaluate import result as measured
from pini_jax.evaluate.doubt import Doubt
from pini_jax.evaluate.result import Split
from pini_jax.methods.method import Variables
from pini_jax.runs import folder, injector, provenance
from pini_jax.runs.provenance import Clock
from pini_jax.task.run import Run, batch_reader, open_dataset, plan, select_images, share, to_classify
from pini_jax.task.task import Task
from pini_jax.train import checkpoint
from pini_jax.train.group import Trainee, make_group
from pini_jax.train.loop import compile_group, train
from pini_jax.train.recorder import Recorder, is_finite
from pini_jax.train.step import initial_state
from pini_jax.train.watch import UNWATCHED, Watch

LOG = logging.getLogger(__name__)


def train_and_evaluate(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains the method of `config`, evaluates it, and returns what it writes to result.json.

    Run again in the same folder it goes on from the last checkpoint; a finished run is not repeated.

    Raises:
        InputError: the config, the weights, the data or the folder cannot be used; the message says why.
        OSError: the folder cannot be written.
        Stopped: somebody asked for it; everything is saved.
    """
    return train_together({workdir: config})[workdir]


def train_together(configs: Mapping[Path, Config], watch: Watch = UNWATCHED) -> dict[Path, dict[str, Any]]:
    """Trains and evaluates runs that share a compiled step: they differ only in shots, seed and optimiser.

    They share the frozen half and one compiled step, which takes some of them side by side. Which lane a run is in
    follows from all of them, finished or not, so that it ends with the same bits whenever it is trained.

    Args:
        watch: is told how far they are, and what is on the disk.

    Raises:
        InputError: one cannot be made, and none is begun; or some diverged, and the others are evaluated.
    """
    stop.raise_if_requested()
    with ExitStack() as stack:
        for workdir in configs:
            stack.enter_context(folder.locked(workdir))
        for workdir, config in configs.items():
            folder.make_room(config, workdir)
        results = {workdir: folder.finished(config, workdir) for workdir, config in configs.items()}
        known = {workdir: result for workdir, result in results.items() if result is not None}
        for workdir in known:
            LOG.info("%s is finished: nothing to do; %s", workdir, compare_data(configs[workdir], workdir))
        if len(known) < len(configs):
            known |= _train_rest(configs, known, stack, watch)
    return {workdir: known[workdir] for workdir in configs}


def _train_rest(
    configs: Mapping[Path, Config], known: Mapping[Path, dict[str, Any]], stack: ExitStack, watch: Watch
) -> dict[Path, dict[str, Any]]:
    """The results of the runs that have none yet."""
    clock = Clock()
    peak.forget()
    with clock.phase("setup"):
        shared = share(next(iter(configs.values())), folder.pinned_clip(configs))
        runs = [plan(config, workdir, shared) for workdir, config in configs.items()]
        group = make_group(runs, begin(runs, known, stack))
    with clock.phase("compile"):
        compiled = compile_group(group) if group.starts != group.lengths else None
    if compiled is not None:
        train(group, *compiled, watch)
    LOG.info("evaluating")
    trainees = group.trainees.values()
    results = evaluate_runs([x for x in trainees if not x.recorder.problem], clock, group.width, watch)
    problems = {trainee.run.workdir: trainee.recorder.problem for trainee in trainees if trainee.recorder.problem}
    for workdir, reason in problems.items():
        folder.record_failure(workdir, reason)
    if problems:
        raise InputError("; ".join(problems.values()))
    return results


def begin(runs: Sequence[Run], known: Mapping[Path, dict[str, Any]], stack: ExitStack) -> dict[int, Trainee]:
    """Opens the folders of the runs that are not finished; by their numbers.

    Nothing is written before all that can be wrong has been tried.
    """
    pending = {i: run for i, run in enumerate(runs) if run.workdir not in known}
    for task in (runs[0].shared.task, *runs[0].shared.unseen.values()):
        check_texts(task)
    inputs = {i: (batch_reader(run), initial_state(run)) for i, run in pending.items()}
    runs[0].shared.frozen.check(
        _distinct(images for run in pending.values() for images in to_classify(run).values())
    )
    for run in pending.values():
        LOG.info("%s", run)
        folder.claim(run)
    return {
        i: Trainee(pending[i], read, stack.enter_context(Recorder(pending[i], state)))
        for i, (read, state) in inputs.items()
    }


def _distinct(splits: Iterable[Sequence[Record]]) -> list[Sequence[Record]]:
    """Each of them once: members of a population have the same test images."""
    return list({id(records): records for records in splits}.values())


def check_texts(task: Task) -> None:
    """Raises InputError where texts of classes have features without a direction."""
    for text in (task.zero_shot, task.text):
        usable = np.all(has_direction(meshes.fetch(text.features)), axis=0)
        if wrong := [name for name, good in zip(task.data.class_names, usable, strict=True) if not good]:
            raise InputError(f"the text tower's features are zero or not finite, of: {listed(wrong)}")


def evaluate_runs(
    trainees: Sequence[Trainee], clock: Clock, width: int, watch: Watch = UNWATCHED
) -> dict[Path, dict[str, Any]]:
    """The results of trained runs by folder; images that all of them classify are read once.

    Each result is kept as a checkpoint is and reported to `watch`, so that no evaluation has to be repeated.
    """
    steps = sum(trainee.run.num_steps for trainee in trainees)
    with clock.phase("images"), np.errstate(invalid="ignore"):  # what is no number is said by `_finish`
        common = measured.open_splits([trainee.run for trainee in trainees])
    found = {}
    for trainee in trainees:
        found[trainee.run.workdir] = _finish(trainee, common, clock.seconds, width)
        watch.saved()
        watch.stepped(steps, steps)
    return {workdir: result for workdir, result in found.items() if result is not None}


def _finish(
    trainee: Trainee, common: Mapping[str, Split], seconds: Mapping[str, float], width: int
) -> dict[str, Any] | None:
    """Evaluates what a run has learned, and writes predictions.parquet, injector.safetensors and result.json.

    Args:
        common: splits that several runs classify.

    Returns:
        the result; None if what was learned gives no numbers.
    """
    run, recorder, clock = trainee.run, trainee.recorder, Clock()
    variables = meshes.replicate(run.shared.mesh, recorder.state.variables)
    with clock.phase("evaluate"), np.errstate(invalid="ignore"):  # what is no number is said below
        kept = measured.predict_splits(run, variables, common)
        evaluated = measured.measure_splits(kept)
    measures = flatten_dict(evaluated, sep=".")
    numbers = {key: x for key, x in measures.items() if x is not None and not isinstance(x, str)}
    wrong = [key for key, x in numbers.items() if not np.isfinite(x).all()]
    if wrong or not is_finite(recorder.state):  # nothing measures a run without images held out
        recorder.fail(f"what was learned gives no numbers ({listed(wrong or ['its parameters'])})")
        return None
    file = run.workdir / predictions.FILE
    sha256 = predictions.write_predictions(file, kept) if kept.answers else None
    export(run, variables, doubt.doubts(kept))
    steps = run.num_steps - recorder.start
    result = describe_run(run) | evaluated
    result |= {
        "predictions_sha256": sha256,
        "lanes": width,
        "trainable_parameters": sum(x.size for x in jax.tree.leaves(recorder.state.phi)),
        "checkpoint_bytes": checkpoint.num_bytes(recorder.state),
        "seconds": _phases(seconds, recorder.seconds, clock.seconds["evaluate"]),
        "peak_bytes": peak.peak_bytes(),
        "steps_per_second": steps / recorder.seconds if steps else 0.0,
        "device": provenance.device(),
        "versions": provenance.versions(),
    }
    folder.write_result(run.workdir, result)
    return result


def _phases(shared: Mapping[str, float], train: float, evaluate: float) -> dict[str, float]:
    """Seconds by phase, in order; what runs share is counted for each of them."""
    first = {name: seconds for name, seconds in shared.items() if name != "images"}
    return first | {"train": train, "evaluate": shared["images"] + evaluate}


def describe_run(run: Run) -> dict[str, Any]:
    """The entries of result.json that are known before a run starts."""
    config = run.config
    return {
        "config_hash": config.hash,
        "dataset": config.dataset,
        "clip": config.clip,
        "clip_sha256": run.shared.frozen.fingerprint,
        "method": config.method,
        "shots": config.shots,
        "seed": config.seed,
        "selection_sha256": run.selection_hash,
        "num_classes": len(run.data.class_names),
        "num_train": len(run.data.train),
        "num_test": len(run.data.test),
        "steps": run.num_steps,
    }


def export(run: Run, variables: Variables, doubts: Mapping[str, Doubt]) -> None:
    """Writes injector.safetensors, and the classes' embeddings if image features are unchanged."""
    shared, names = run.shared, run.data.class_names
    theta = shared.frozen.theta
    given = shared.frozen.given(names)
    config = dataclasses.replace(run.config, clip=shared.frozen.source)
    exported = injector.Exported(variables, config, names, shared.frozen.fingerprint, given=given, doubts=doubts)
    injector.save_injector(run.workdir / injector.FILE, exported)
    if not shared.method.traits.moves_images:
        adapted = shared.method.adapt(variables, theta)
        embeddings = prediction.encode_text_draws(shared.method, variables, adapted, shared.task.text)[0]
        scale = float(np.exp(theta["logit_scale"]))
        injector.save_embeddings(run.workdir / injector.CLASSES, meshes.fetch(embeddings), scale, names)


def compare_data(config: Config, workdir: Path) -> str:
    """Whether the data of a finished run are still as they were, in words."""
    try:
        written = folder.read_sealed(workdir / folder.SELECTION)
        data, _ = select_images(config, _open(config))
        now = folder.describe_data(data)
    except (InputError, OSError) as error:
        return f"its data cannot be compared now ({error})"
    if not folder.same_data(written, now):
        return "its data have changed since: another workdir trains on them"
    return "its data are as they were: training and validation to the byte, the test by names, classes and size"


_opened: dict[tuple[str, str, int], Dataset] = {}  # one at most: the last, which a population's members share


def _open(config: Config) -> Dataset:
    key = config.dataset, config.data_dir, config.max_unreadable
    if key not in _opened:
        _opened.clear()
        _opened[key] = open_dataset(config, config.dataset)[0]
    return _opened[key]
