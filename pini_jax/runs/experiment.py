"""A whole run, or several over one frozen half: from configs to result.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.data.datasets.records import Dataset
from pini_jax.evaluate import prediction
from pini_jax.evaluate.result import evaluate
from pini_jax.methods.method import Variables
from pini_jax.runs import folder, injector, provenance
from pini_jax.runs.provenance import Clock
from pini_jax.task.run import Run, batch_reader, open_dataset, plan, select_images, share, to_classify
from pini_jax.train import checkpoint
from pini_jax.train.loop import Group, Trainee, compile_group, num_lanes, train
from pini_jax.train.recorder import Recorder
from pini_jax.train.step import initial_state

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


def train_together(configs: Mapping[Path, Config]) -> dict[Path, dict[str, Any]]:
    """The same for runs that differ in nothing but shots, seed and optimiser; results by their folders.

    They share the frozen half and one compiled step, which takes some of them side by side. Which lane a run is in
    follows from all of them, finished or not, so that it ends with the same bits whenever it is trained.

    Raises:
        InputError: as above, for any of them, before one is begun; or some diverged, and the others are evaluated.
    """
    with ExitStack() as stack:
        for workdir in configs:
            stack.enter_context(folder.locked(workdir))
        results = {workdir: folder.finished(config, workdir) for workdir, config in configs.items()}
        known = {workdir: result for workdir, result in results.items() if result is not None}
        for workdir in known:
            LOG.info("%s is finished: nothing to do; %s", workdir, compare_data(configs[workdir], workdir))
        if len(known) < len(configs):
            known |= _train_rest(configs, known, stack)
    return {workdir: known[workdir] for workdir in configs}


def _train_rest(
    configs: Mapping[Path, Config], known: Mapping[Path, dict[str, Any]], stack: ExitStack
) -> dict[Path, dict[str, Any]]:
    """The results of the runs that have none yet."""
    clock = Clock()
    with clock.phase("setup"):
        shared = share(next(iter(configs.values())))
        runs = [plan(config, workdir, shared) for workdir, config in configs.items()]
        group = Group(runs, begin(runs, known, stack), num_lanes(runs))
    with clock.phase("compile"):
        compiled = compile_group(group) if group.starts != group.lengths else None
    if compiled is not None:
        train(group, *compiled)
    LOG.info("evaluating")
    trainees = group.trainees.values()
    results = {
        trainee.run.workdir: finish(trainee, clock.seconds, group.width)
        for trainee in trainees
        if trainee.recorder.problem is None
    }
    problems = {trainee.run.workdir: trainee.recorder.problem for trainee in trainees if trainee.recorder.problem}
    for workdir, reason in problems.items():
        folder.fail(workdir, reason)
    if problems:
        raise InputError("; ".join(problems.values()))
    return results


def begin(runs: Sequence[Run], known: Mapping[Path, dict[str, Any]], stack: ExitStack) -> dict[int, Trainee]:
    """Opens the folders of the runs that are not finished; by their numbers.

    Nothing is written before all that can be wrong has been tried.
    """
    pending = {i: run for i, run in enumerate(runs) if run.workdir not in known}
    inputs = {i: (batch_reader(run), initial_state(run)) for i, run in pending.items()}
    runs[0].shared.frozen.check([images for run in pending.values() for images in to_classify(run).values()])
    for run in pending.values():
        LOG.info("%s", run)
        folder.claim(run)
    return {
        i: Trainee(pending[i], read, stack.enter_context(Recorder(pending[i], state)))
        for i, (read, state) in inputs.items()
    }


def finish(trainee: Trainee, seconds: Mapping[str, float], width: int) -> dict[str, Any]:
    """Evaluates what a run has learned, and writes injector.safetensors and result.json."""
    run, recorder, clock = trainee.run, trainee.recorder, Clock()
    with clock.phase("evaluate"):
        evaluated = evaluate(run, recorder.state.variables)
    export(run, recorder.state.variables)
    steps = run.num_steps - recorder.start
    result = describe_run(run) | evaluated
    result |= {
        "lanes": width,
        "trainable_parameters": sum(x.size for x in jax.tree.leaves(recorder.state.phi)),
        "checkpoint_bytes": checkpoint.num_bytes(recorder.state),
        "seconds": dict(seconds) | {"train": recorder.seconds} | clock.seconds,
        "steps_per_second": steps / recorder.seconds if steps else 0.0,
        "device": provenance.device(),
        "versions": provenance.versions(),
    }
    folder.write_result(run.workdir, result)
    return result


def describe_run(run: Run) -> dict[str, Any]:
    """What result.json says of a run before it starts."""
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


def export(run: Run, variables: Variables) -> None:
    """Writes injector.safetensors; and the classes' embeddings, where they and plain image features are enough."""
    shared, names = run.shared, run.data.class_names
    theta = shared.frozen.theta
    exported = injector.Exported(
        variables, run.config, names, shared.frozen.fingerprint, shared.frozen.given(names)
    )
    injector.save_injector(run.workdir / "injector.safetensors", exported)
    if not shared.method.traits.moves_images:
        adapted = shared.method.adapt(variables, theta)
        embeddings = prediction.encode_text_draws(shared.method, variables, adapted, shared.task.text)[0]
        scale = float(np.exp(theta["logit_scale"]))
        injector.save_embeddings(run.workdir / "classes.safetensors", meshes.fetch(embeddings), scale, names)


def compare_data(config: Config, workdir: Path) -> str:
    """Whether the data of a finished run are still as they were, in words."""
    try:
        written = paths.read_object(workdir / "selection.json")
        data, _ = select_images(config, _open(config))
        now = folder.describe_data(data)
    except (InputError, OSError) as error:
        return f"its data cannot be compared now ({error})"
    same = all(written.get(key) == now[key] for key in now)
    return "its data are as they were" if same else "its data have changed since: another workdir trains on them"


def _open(config: Config) -> Dataset:
    key = config.dataset, config.data_dir, config.max_unreadable
    if key not in _opened:
        _opened.clear()
        _opened[key] = open_dataset(config, config.dataset)[0]
    return _opened[key]


_opened: dict[tuple[str, str, int], Dataset] = {}  # the last one, which the members of a population share
