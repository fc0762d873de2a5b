"""What a task of Ray does; tests/launch/test_ray.py has Ray itself."""

import jax
import pytest

from pini_jax.core import stop
from pini_jax.core.errors import InputError
from pini_jax.launch import ray_workers
from pini_jax.runs import worker
from pini_jax.runs.worker import Options


def ending(monkeypatch, error):
    """A worker that ends so; what it found when it began."""
    begun = []

    def work(workdir, options):
        begun.append(jax.config.jax_compilation_cache_dir)
        if error:
            raise error

    monkeypatch.setattr(worker, "work", work)
    monkeypatch.setattr(stop, "listen", lambda: begun.append("listens"))
    return begun


@pytest.mark.parametrize("error", [InputError("2 runs have no result"), OSError("gs://b gives no answer")])
def test_a_worker_that_has_failed_says_so_and_ends_no_other(monkeypatch, error):
    ending(monkeypatch, error)
    assert ray_workers.work("w", Options()) == str(error)


def test_a_worker_that_was_stopped_is_to_be_started_again(monkeypatch):
    ending(monkeypatch, stop.Stopped())
    with pytest.raises(SystemExit) as ended:
        ray_workers.work("w", Options())
    assert ended.value.code == stop.STATUS


def test_a_worker_listens_and_keeps_compiled_programs(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        begun = ending(monkeypatch, None)
        assert ray_workers.work("w", Options()) == ""
        assert begun[0] == "listens" and begun[1].endswith("programs")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
