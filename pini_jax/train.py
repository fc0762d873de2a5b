"""A whole run: data, features, training and evaluation, from a config to result.json."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from pini_jax import config as configs
from pini_jax import evaluate, export, mesh, metrics, optim, results, rng
from pini_jax import step as steps
from pini_jax.checkpoint import Checkpoints
from pini_jax.clip import pretrained
from pini_jax.config import Config
from pini_jax.data import digits, features, fewshot, prompts, records
from pini_jax.data.batches import Batches
from pini_jax.noise import generators
from pini_jax.noise.injector import Injector

PREFETCH = 4


class Setup(NamedTuple):
    """Everything that a run reads and never changes."""

    config: Config
    mesh: jax.sharding.Mesh
    data: records.Dataset
    clip: pretrained.Pretrained
    encode: features.Encode
    theta: dict
    injector: Injector
    prompts: prompts.Prompts


def train_and_evaluate(config: Config, workdir: Path) -> dict:
    """Trains the noise of `config`, evaluates it, and returns what it writes to result.json.

    Run again in the same folder it goes on from the last checkpoint; a finished run is not repeated.

    Raises:
        InputError: the config, the weights, the data or the folder cannot be used; the message says why.
        OSError: the folder cannot be written.
    """
    finished = results.claim(config, workdir)
    if finished is not None:
        logging.info("%s is finished; nothing to do", workdir)
        return finished
    clock = results.Clock()
    with clock.phase("setup"):
        run = set_up(config)
        batches = Batches(len(run.data.train), batch_size(run), config.views, config.seed)
        optimiser = optim.optimiser(config.optim, batches.per_epoch)
        state, start = initial_state(run, optimiser), 0
        test = features.features(run.data.test, run.clip, run.encode)
        next_batch = batch_reader(run, batches)
    with clock.phase("compile"):
        train_step = compile_step(run, optimiser, state, next_batch(0))
    with Checkpoints(workdir / "checkpoints", batches.per_epoch) as checkpoints:
        if (restored := checkpoints.restore(state)) is not None:
            state, start = restored, int(restored.step)
            logging.info("going on from step %d", start)
        with clock.phase("train"):
            state = train(run, batches, next_batch, train_step, state, checkpoints, workdir)
        checkpoint_bytes = checkpoints.size()
    with clock.phase("evaluate"):
        zero_shot, tested = evaluate_all(run, state.phi, test)
    export.save(workdir / "injector.safetensors", state.phi, config, run.data.class_names, run.clip.fingerprint)
    num_steps = config.optim.epochs * batches.per_epoch
    result = {
        "config_hash": configs.config_hash(config),
        "dataset": config.dataset,
        "clip": config.clip,
        "clip_sha256": run.clip.fingerprint,
        "method": "pini",
        "shots": config.shots,
        "seed": config.seed,
        "selection_sha256": records.list_hash(run.data.train + run.data.val),
        "num_classes": len(run.data.class_names),
        "num_train": len(run.data.train),
        "num_test": len(run.data.test),
        "steps": num_steps,
        "trainable_parameters": sum(x.size for x in jax.tree.leaves(state.phi)),
        "checkpoint_bytes": checkpoint_bytes,
        "zero_shot": zero_shot,
        "test": tested,
        "seconds": clock.seconds,
        "steps_per_second": (num_steps - start) / clock.seconds["train"],
        "device": results.device(),
        "versions": results.versions(),
    }
    results.write(workdir / "result.json", result)
    return result


# ---------------------------------------------------------------- setup


def set_up(config: Config) -> Setup:
    """Loads the data, the selection, the frozen CLIP and the prompts."""
    data = fewshot.select(digits.load(), config.shots, config.seed)
    clip = pretrained.load(config.clip, config.tokenizer, tower_dtype(config.dtype))
    devices = mesh.make()
    context_length = clip.text_tower.sizes.context_length
    return Setup(
        config=config,
        mesh=devices,
        data=data,
        clip=clip,
        encode=features.make_encoder(clip, devices),
        # The step needs no image tower.
        theta=mesh.replicate(devices, {key: clip.theta[key] for key in ("text", "logit_scale")}),
        injector=Injector(clip.text_tower, generators.build(config.noise)),
        prompts=prompts.build(clip.tokenizer, config.template, data.class_names, context_length),
    )


def tower_dtype(name: str) -> jnp.dtype:
    """The dtype of the towers; `auto` is float32 on CPU and bfloat16 on accelerators."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def batch_size(run: Setup) -> int:
    """The images of a step: `batch_size`, or all there are, filled up to what the devices divide."""
    devices = run.mesh.size
    mesh.check_divisible(run.mesh, run.config.batch_size)
    return min(run.config.batch_size, len(run.data.train) + -len(run.data.train) % devices)


def initial_state(run: Setup, optimiser) -> steps.TrainState:
    """The state before the first step, on every device."""
    root = rng.root(run.config.seed)
    return mesh.replicate(run.mesh, steps.init_state(run.injector, optimiser, run.theta, run.prompts, root))


def batch_reader(run: Setup, batches: Batches) -> Callable[[int], steps.Batch]:
    """step -> its batch of features, split over the devices: from the cached views, or of fresh ones."""
    labels = np.array([record.label for record in run.data.train], np.int32)
    config, selection = run.config, run.data.train
    cached = [
        features.features(selection, run.clip, run.encode, config.augment, config.seed, view)
        for view in range(config.views)
    ]

    def read(step: int) -> steps.Batch:
        view, images, weights = batches.at(step)
        if cached:
            found = cached[view][images]
        else:
            pixels = [
                features.view_pixels(selection[i], run.clip, config.augment, config.seed, view, int(i))
                for i in images
            ]
            found = run.encode(run.clip.preprocessing.normalise(np.stack(pixels)))
        return mesh.shard(run.mesh, steps.Batch(found, labels[images], weights))

    return read


def compile_step(run: Setup, optimiser, state: steps.TrainState, batch: steps.Batch):
    """(state, batch) -> (state, parts): the train step, compiled ahead."""
    root = mesh.replicate(run.mesh, rng.root(run.config.seed))
    run_prompts = mesh.replicate(run.mesh, run.prompts)
    step = functools.partial(steps.train_step, run.injector, optimiser, run.config.num_samples)
    compiled = jax.jit(step, donate_argnums=0).lower(state, run.theta, run_prompts, batch, root).compile()
    return lambda state, batch: compiled(state, run.theta, run_prompts, batch, root)


# ---------------------------------------------------------------- training


def train(run, batches, next_batch, train_step, state, checkpoints, workdir) -> steps.TrainState:
    """Every step from the state's to the last one, with its metrics and checkpoints."""
    config = run.config
    start, stop = int(state.step), config.optim.epochs * batches.per_epoch
    learning_rate = optim.schedule(config.optim, batches.per_epoch)
    with (
        results.MetricsFile(workdir / "metrics.jsonl", keep_until=start) as lines,
        tqdm(total=stop, initial=start, unit="step", desc="training", dynamic_ncols=True) as bar,
    ):
        for step, batch in zip(range(start, stop), prefetch(next_batch, start, stop), strict=True):
            state, parts = train_step(state, batch)
            bar.update()
            done = step + 1
            if done % config.log_every == 0 or done == stop:
                loss, accuracy = float(parts.loss), float(parts.accuracy)
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}")
                lines.write(step=done, loss=loss, accuracy=accuracy, learning_rate=float(learning_rate(step)))
            if done % config.checkpoint_every == 0 or done == stop:
                lines.flush()
                checkpoints.save(state)
    return state


def prefetch(next_batch: Callable[[int], steps.Batch], start: int, stop: int) -> Iterator[steps.Batch]:
    """The batches of steps start to stop, made ahead in a thread while the device works."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[Future] = []
        for step in range(start, stop + PREFETCH):
            if step < stop:
                waiting.append(pool.submit(next_batch, step))
            if step >= start + PREFETCH:
                yield waiting.pop(0).result()


# ---------------------------------------------------------------- evaluation


def evaluate_all(run: Setup, phi: dict, test: np.ndarray) -> tuple[dict, dict]:
    """Metrics on the test set: of plain CLIP, and of the noise by prediction mode."""
    config, labels = run.config, np.array([record.label for record in run.data.test])

    def measure(injector: Injector, phi: dict, prompt: prompts.Prompts, mode: str) -> dict:
        predicted = evaluate.predict(
            injector, phi, run.theta, prompt, test, mode, config.num_draws, config.seed
        )
        return metrics.metrics(predicted, labels)._asdict()

    zero_shot = prompts.build(
        run.clip.tokenizer,
        config.zero_shot_template,
        run.data.class_names,
        run.clip.text_tower.sizes.context_length,
    )
    return (
        measure(Injector(run.clip.text_tower, {}), {}, zero_shot, "mean"),
        {mode: measure(run.injector, phi, run.prompts, mode) for mode in evaluate.MODES},
    )
