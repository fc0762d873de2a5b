"""A whole run: data, features, training and evaluation, from a config to result.json."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

from pini_jax import checkpoint, evaluate, export, mesh, metrics, optim, results, rng
from pini_jax import config as configs
from pini_jax.checkpoint import Checkpoints
from pini_jax.clip import pretrained
from pini_jax.config import Config
from pini_jax.data import digits, features, fewshot, prompts, records
from pini_jax.data.batches import Batches
from pini_jax.errors import InputError
from pini_jax.noise import generators
from pini_jax.noise.injector import Injector
from pini_jax.objective import Objective
from pini_jax.step import Batch, TrainState, init_state, train_step

PREFETCH = 4
LOG = logging.getLogger(__name__)
Reader = Callable[[int], Batch]
Step = Callable[[TrainState, Batch], tuple[TrainState, Objective]]


class Run(NamedTuple):
    """Everything that a run reads and never changes.

    Attributes:
        theta: the frozen parameters that the training step reads.
        encode: the frozen image tower, over batches of pixels.
    """

    config: Config
    mesh: jax.sharding.Mesh
    data: records.Dataset
    clip: pretrained.Pretrained
    theta: dict
    encode: features.Encode
    injector: Injector
    prompts: prompts.Prompts
    batches: Batches
    optimiser: optax.GradientTransformation

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.optim.epochs * self.batches.per_epoch


def train_and_evaluate(config: Config, workdir: Path) -> dict:
    """Trains the noise of `config`, evaluates it, and returns what it writes to result.json.

    Run again in the same folder it goes on from the last checkpoint; a finished run is not repeated.

    Raises:
        InputError: the config, the weights, the data or the folder cannot be used; the message says why.
        OSError: the folder cannot be written.
    """
    if (result := results.finished(config, workdir)) is not None:
        LOG.info("%s is finished: nothing to do", workdir)
        return result
    clock = results.Clock()
    with clock.phase("setup"):
        run = set_up(config)
        LOG.info("encoding images")
        val, test = (features.features(split, run.clip, run.encode) for split in (run.data.val, run.data.test))
        state, reader = initial_state(run), batch_reader(run)
        results.claim(config, workdir)
    LOG.info("compiling")
    with clock.phase("compile"):
        step = compile_step(run, state, reader(0))
    with Checkpoints(workdir / "checkpoints", run.batches.per_epoch, run.clip.fingerprint) as checkpoints:
        state = checkpoints.restore(state) or state
        start = int(state.step)
        with clock.phase("train"):
            state = train(run, state, step, reader, checkpoints, workdir)
    LOG.info("evaluating")
    with clock.phase("evaluate"):
        evaluated = {
            "zero_shot": evaluate_zero_shot(run, run.data.test, test),
            "val": evaluate_noise(run, state.phi, run.data.val, val),
            "test": evaluate_noise(run, state.phi, run.data.test, test),
        }
    export.save(workdir / "injector.safetensors", state.phi, config, run.data.class_names, run.clip.fingerprint)
    result = describe(run) | evaluated
    result |= {
        "trainable_parameters": sum(x.size for x in jax.tree.leaves(state.phi)),
        "checkpoint_bytes": checkpoint.num_bytes(state),
        "seconds": clock.seconds,
        "steps_per_second": (run.num_steps - start) / clock.seconds["train"],
        "device": results.device(),
        "versions": results.versions(),
    }
    results.write(workdir / "result.json", result)
    return result


# ------------------------------------------------------------------------------------------------ setup


def set_up(config: Config) -> Run:
    """Loads the data, the selection, the frozen CLIP and the prompts."""
    devices = mesh.make(config.model_shards)
    data = fewshot.select(digits.load(), config.shots, config.seed)
    LOG.info(
        "%s: %d classes, %d training and %d test images (shots=%d, seed=%d, selection %.12s)",
        *(data.name, len(data.class_names), len(data.train), len(data.test)),
        *(config.shots, config.seed, selection_hash(data)),
    )
    batches = Batches(len(data.train), batch_size(config, devices, len(data.train)), config.views, config.seed)
    dtype = pretrained.tower_dtype(config.dtype)
    clip = pretrained.load(config.clip, config.tokenizer, dtype, config.image_size, devices)
    return Run(
        config=config,
        mesh=devices,
        data=data,
        clip=clip,
        theta={key: part for key, part in clip.theta.items() if key != "image"},
        encode=features.make_encoder(clip, devices),
        injector=Injector(clip.text_tower, generators.build(config.noise)),
        prompts=make_prompts(clip, config.template, data),
        batches=batches,
        optimiser=optim.optimiser(config.optim, batches.per_epoch),
    )


def batch_size(config: Config, devices: jax.sharding.Mesh, num_images: int) -> int:
    """The images of a step: `batch_size`, or all there are, filled up to what `data` divides."""
    mesh.check_divisible(devices, config.batch_size)
    return min(config.batch_size, num_images + -num_images % mesh.batch_shards(devices))


def selection_hash(data: records.Dataset) -> str:
    """Names the images that training and validation may see."""
    return records.list_hash(data.train + data.val)


def make_prompts(clip: pretrained.Pretrained, template: str, data: records.Dataset) -> prompts.Prompts:
    """The template with every class name."""
    return prompts.build(clip.tokenizer, template, data.class_names, clip.text_tower.sizes)


def initial_state(run: Run) -> TrainState:
    """The state before the first step, on every device."""
    state = init_state(run.injector, run.optimiser, run.prompts, rng.root(run.config.seed))
    return mesh.replicate(run.mesh, state)


def batch_reader(run: Run) -> Reader:
    """step -> its batch of features, split over the devices: from the cached views, or of fresh ones."""
    config, selection = run.config, run.data.train
    labels = np.array([record.label for record in selection], np.int32)
    cached = [
        features.features(selection, run.clip, run.encode, config.augment, config.seed, view)
        for view in range(config.views)
    ]

    pool = ThreadPoolExecutor()

    def fresh(view: int, images: np.ndarray) -> jax.Array:
        def pixels(i: int) -> np.ndarray:
            return features.view_pixels(selection[i], run.clip, config.augment, config.seed, view, i)

        return run.encode(run.clip.preprocessing.normalise(np.stack(list(pool.map(pixels, images.tolist())))))

    def read(step: int) -> Batch:
        view, images, weights = run.batches.at(step)
        found = cached[view][images] if cached else fresh(view, images)
        return Batch(*mesh.shard(run.mesh, (found, labels[images], weights)))

    return read


def compile_step(run: Run, state: TrainState, batch: Batch) -> Step:
    """(state, batch) -> (state, parts of the objective), compiled ahead; the state passed in is used up."""
    constants = mesh.replicate(run.mesh, (run.prompts, rng.root(run.config.seed)))

    def step(state, theta, batch, constants):
        prompts, root = constants
        return train_step(run.injector, run.optimiser, run.config.num_samples, state, theta, prompts, batch, root)

    # Left to itself the compiler may split the new state as it likes, and the next call wants it as it was.
    jitted = jax.jit(step, donate_argnums=0, out_shardings=mesh.replicated(run.mesh))
    compiled = jitted.lower(state, run.theta, batch, constants).compile()
    return lambda state, batch: compiled(state, run.theta, batch, constants)


# ------------------------------------------------------------------------------------------------ training


def train(
    run: Run, state: TrainState, step: Step, reader: Reader, checkpoints: Checkpoints, workdir: Path
) -> TrainState:
    """All steps from the state's to the last, with lines of metrics.jsonl and checkpoints on the way."""
    config, start, stop = run.config, int(state.step), run.num_steps
    if start:
        LOG.info("going on from step %d of %d", start, stop)
    learning_rate = optim.schedule(config.optim, run.batches.per_epoch)
    with (
        results.MetricsFile(workdir / "metrics.jsonl", keep_until=start) as lines,
        tqdm(total=stop, initial=start, unit="step", desc="training", dynamic_ncols=True) as bar,
    ):
        for done, batch in enumerate(prefetch(reader, start, stop), start + 1):
            state, parts = step(state, batch)
            bar.update()
            if done % config.log_every == 0 or done == stop:
                loss, accuracy = float(parts.loss), float(parts.accuracy)
                if not np.isfinite(loss):
                    raise InputError(f"training diverged: the loss of step {done} is {loss}; lower optim.lr")
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", refresh=False)
                rate = float(learning_rate(done - 1))
                lines.write(step=done, loss=loss, accuracy=accuracy, learning_rate=rate)
            if done % config.checkpoint_every == 0 or done == stop:
                lines.flush()
                checkpoints.save(state)
    return state


def prefetch(reader: Reader, start: int, stop: int) -> Iterator[Batch]:
    """The batches of steps start to stop, made ahead in a thread while the device works."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[Future[Batch]] = []
        for step in range(start, stop + PREFETCH):
            if step < stop:
                waiting.append(pool.submit(reader, step))
            if step >= start + PREFETCH:
                yield waiting.pop(0).result()


# ------------------------------------------------------------------------------------------------ evaluation


def evaluate_zero_shot(run: Run, split: Sequence[records.Record], images: np.ndarray) -> dict:
    """Metrics of plain CLIP with the zero-shot template."""
    plain = make_prompts(run.clip, run.config.zero_shot_template, run.data)
    return measure(run, Injector(run.clip.text_tower), {}, plain, split, images, "mean")


def evaluate_noise(run: Run, phi: dict, split: Sequence[records.Record], images: np.ndarray) -> dict:
    """Metrics of the trained noise, by prediction mode."""
    return {mode: measure(run, run.injector, phi, run.prompts, split, images, mode) for mode in evaluate.MODES}


def measure(
    run: Run,
    injector: Injector,
    phi: dict,
    prompt: prompts.Prompts,
    split: Sequence[records.Record],
    images: np.ndarray,
    mode: str,
) -> dict:
    """Metrics of a split, given the features of its images."""
    labels = np.array([record.label for record in split])
    config = run.config
    predicted = evaluate.predict(injector, phi, run.theta, prompt, images, mode, config.num_draws, config.seed)
    return metrics.metrics(predicted, labels)._asdict()


def describe(run: Run) -> dict:
    """What result.json says of a run before it starts."""
    config, data = run.config, run.data
    return {
        "config_hash": configs.config_hash(config),
        "dataset": config.dataset,
        "clip": config.clip,
        "clip_sha256": run.clip.fingerprint,
        "method": "pini",
        "shots": config.shots,
        "seed": config.seed,
        "selection_sha256": selection_hash(data),
        "num_classes": len(data.class_names),
        "num_train": len(data.train),
        "num_test": len(data.test),
        "steps": run.num_steps,
    }
