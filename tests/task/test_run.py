"""How long a run trains."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pini_jax import config as configs
from pini_jax.data.batches import Batches
from pini_jax.task.run import Run

PER_SHOT = {"2sfs": 300, "clip_svd": 200, "clip_lora": 500}


def make_run(arguments, classes):
    """On so many classes, without their images."""
    config = configs.resolve(configs.with_arguments(configs.default(), arguments))
    images = classes * config.shots
    batches = Batches(images, min(config.batch_size, images), config.views, config.seed)
    return Run(config, Path(), SimpleNamespace(method=configs.make_method(config)), None, batches)


@pytest.mark.parametrize("classes", [1, 10, 47, 160, 1000])
@pytest.mark.parametrize("shots", [1, 4, 16])
@pytest.mark.parametrize("name", PER_SHOT)
def test_some_methods_have_the_steps_of_their_papers_for_any_number_of_classes(name, shots, classes):
    run = make_run(f"method={name},shots={shots}", classes)
    assert run.num_steps == run.length.steps == PER_SHOT[name] * shots


@pytest.mark.parametrize("classes", [10, 47])
@pytest.mark.parametrize("name", PER_SHOT)
def test_their_rate_goes_to_zero_at_the_last_step(name, classes):
    run = make_run(f"method={name},options.steps_per_shot=25", classes)
    rate = run.shared.method.schedule(run.config.optim, run.length)
    first, *_, last, end = (float(x) for x in rate(np.arange(run.num_steps + 1)))
    assert first == pytest.approx(run.config.optim.lr) and 0 < last < 1e-3 * first and abs(end) < 1e-6 * first


@pytest.mark.parametrize("name", [*PER_SHOT, "task_res"])
def test_epochs_that_are_given_count(name):
    run = make_run(f"method={name},shots=4,optim.epochs=20", 47)
    assert run.num_steps == 20 * run.batches.per_epoch and run.length.epochs == 20


def test_what_is_solved_for_takes_none():
    assert make_run("method=gda,shots=4", 10).num_steps == 0
