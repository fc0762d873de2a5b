"""What all tests share: the CPU, programs that compile quickly, and caches that are not the user's own."""

import logging
import os
import tempfile
from pathlib import Path

# Most of the time tests compile: a third less where XLA does not make programs fast. Commands inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402, reads the variable set above
import pytest  # noqa: E402, as below

# Features are computed anew in every session; only compiled programs are kept.
CACHE = tempfile.TemporaryDirectory(prefix="pini_jax_tests_")
PROGRAMS = Path(__file__).parent.parent / ".cache" / "programs"
PROGRAMS.mkdir(parents=True, exist_ok=True)
Path(CACHE.name, "pini_jax").mkdir()
Path(CACHE.name, "pini_jax", "programs").symlink_to(PROGRAMS)
os.environ["XDG_CACHE_HOME"] = CACHE.name
jax.config.update("jax_platforms", "cpu")

import shape_checker  # noqa: E402, as below

shape_checker.install()

import tiny_clips  # noqa: E402, as below

from pini_jax.core import runtime  # noqa: E402, reads the variable set above
from pini_jax.data.datasets import digits  # noqa: E402, as below

runtime.prepare()
logging.getLogger("pini_jax").propagate = True  # to caplog


@pytest.fixture(scope="module")
def optimised():
    """Programs as users run them, for what is held to recordings or to bits."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quick)
    jax.clear_caches()


@pytest.fixture(scope="session")
def clip():
    """A tiny random CLIP."""
    return tiny_clips.load()


@pytest.fixture(scope="session")
def prompts():
    """Prompts of unequal length for it."""
    return tiny_clips.make_prompts()


@pytest.fixture(scope="session")
def text():
    """The classes of these prompts."""
    return tiny_clips.make_text()


@pytest.fixture(scope="session")
def injector():
    """The released method on it."""
    return tiny_clips.make_injector()


@pytest.fixture(scope="session")
def fitted_run(tmp_path_factory):
    """A saved classifier of three of the digits."""
    estimator = pytest.importorskip("pini_jax.use.estimator", reason="the run is made by the extra sklearn")
    data = digits.load_digits()
    few = [record for record in data.train if record.label < 3][:24]
    fitted = estimator.Classifier("tiny_clip", method="tip_adapter", views=1)
    fitted.fit([record.source for record in few], [data.class_names[record.label] for record in few])
    file = tmp_path_factory.mktemp("run") / "injector.safetensors"
    fitted.save(file)
    return file
