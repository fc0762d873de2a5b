"""Workdirs in buckets: one writer, and whoever goes on elsewhere ends with the bits of an undisturbed run."""

import emulators
import pytest
from safetensors.numpy import load_file

from pini_jax.core import bucket as buckets
from pini_jax.core import mirror, stop
from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.core.mirror import Mirror
from pini_jax.runs import claims, experiment, population, staged
from pini_jax.train import loop
from pini_jax.train.watch import UNWATCHED
from pini_jax.use import classifier

LEASE = 0.4
SETTINGS = {
    "clip": "tiny_clip",
    "views": 1,
    "num_draws": 2,
    "noise": {"image_features": {"generator": "table"}},
    "template": "a photo of the digit {}.",
    "zero_shot_template": "a photo of the digit {}.",
    "shots": 1,
    "batch_size": 5,
    "log_every": 1,
    "checkpoint_every": 2,
    "optim": {"epochs": 4},
}


class Killed(BaseException):
    """The process is gone: nothing is said any more."""


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setattr(buckets, "PAUSES", (0.0, 0.0))
    with emulators.bucket("memory") as url:
        yield f"{url}/runs/one"


@pytest.fixture
def kill(monkeypatch):
    """Kills the process that pushes for the n-th time, before or after that push."""
    push, end = Mirror.push, claims.Claims.end

    def kill(number, after=False):
        pushes = iter(range(1, 100))

        def dying(self):
            now = next(pushes)
            if now == number and not after:
                raise Killed
            pushed = push(self)
            if now == number:
                raise Killed
            return pushed

        monkeypatch.setattr(Mirror, "push", dying)
        monkeypatch.setattr(claims.Claims, "end", lambda *_: None)

    def revive():
        monkeypatch.setattr(Mirror, "push", push)
        monkeypatch.setattr(claims.Claims, "end", end)

    kill.revive = revive
    return kill


def train(url, settings=SETTINGS, lease=LEASE):
    with staged.staged(url, lease) as (workdir, watch):
        return population.train_population(population.members(settings), workdir, watch)


def test_a_path_of_this_machine_is_itself(tmp_path):
    with staged.staged(str(tmp_path)) as (workdir, watch):
        assert (workdir, watch) == (tmp_path, UNWATCHED)


@pytest.mark.long
def test_a_killed_run_goes_on_elsewhere_with_the_same_bits(url, kill, tmp_path):
    """Before the second push, and twice after the first one; the disk's run is the measure."""
    experiment.train_together({tmp_path / "disk": config_of(SETTINGS)})
    for number, after in ((2, False), (1, True), (1, True)):
        kill(number, after)
        with pytest.raises(Killed):
            train(url)
        kill.revive()
        assert open_bucket(url).read("result.json") is None
    steps = []
    with staged.staged(url, LEASE) as (workdir, watch):
        steps += [int(path.name) for path in (workdir / "checkpoints").iterdir()]
        population.train_population(population.members(SETTINGS), workdir, watch)
    assert max(steps) == 6
    place = open_bucket(url)
    for name in ("metrics.jsonl", "config.json", "selection.json", "predictions.parquet"):
        assert place.read(name) == (tmp_path / "disk" / name).read_bytes()
    place.get("injector.safetensors", tmp_path / "injector.safetensors")
    ours, theirs = (load_file(tmp_path / x / "injector.safetensors") for x in (".", "disk"))
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in theirs)
    assert not [key for key in place.objects() if "checkpoints" in key]
    (number,) = pushed(place)  # what earlier ones have left is gone
    assert train(url) and pushed(place) == {number}  # finished: nothing is pushed again
    assert classifier.load_classifier(url).class_names == classifier.load_classifier(tmp_path / "disk").class_names


def pushed(place):
    """The numbers of the claims of which there is something."""
    return {key.partition("/")[0] for key in place.below(staged.OWN).objects()} - {"claims", "workers"}


def config_of(settings):
    return population.members(settings)[0].config


def test_a_stop_pushes_before_it_is_said(url, monkeypatch):
    steps, record = [], loop.record

    def count(*given, **named):
        steps.append(given)
        return record(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "record", count)
        patch.setattr(stop, "_answer", lambda: bool(steps))
        with pytest.raises(stop.Stopped):
            train(url)
    with staged.staged(url, LEASE) as (workdir, _):
        assert [path.name for path in (workdir / "checkpoints").iterdir()]
    assert "result.json" not in open_bucket(url).names()


def test_why_a_run_failed_is_kept(url):
    settings = SETTINGS | {"optim": {"epochs": 4, "lr": 1e38}}
    with pytest.raises(InputError, match=f"training diverged.*{url}") as error:
        train(url, settings)
    assert "pini_jax-" not in str(error.value)
    place = open_bucket(url)
    assert {"failure.json", "config.json"} <= place.names() and place.read("result.json") is None
    assert train(url)  # the folder takes another config
    assert "failure.json" not in place.names() and place.read("result.json")


def test_another_config_is_refused_and_nothing_is_written(url):
    train(url)
    before = open_bucket(url).read("result.json")
    with pytest.raises(InputError, match=f"{url} holds a run of another config"):
        train(url, SETTINGS | {"seed": 5})
    assert open_bucket(url).read("result.json") == before


def test_a_folder_that_was_copied_into_a_bucket_is_known(url, tmp_path):
    experiment.train_together({tmp_path: config_of(SETTINGS)})
    place = open_bucket(url)
    for name in mirror.kept_files(tmp_path):
        place.put(name, (tmp_path / name).read_bytes())
    before = place.read("result.json")
    assert train(url) and place.read("result.json") == before


def test_who_lives_is_named(url):
    with (
        staged.staged(url, LEASE),
        pytest.raises(InputError, match=f"{url} is being written by .*-\\d+-"),
        staged.staged(url, LEASE),
    ):
        pass


def test_who_was_asleep_writes_nothing_that_is_read(url, monkeypatch):
    """One writer sleeps, another takes over and ends; then the first wakes up."""
    first = staged.staged(url, LEASE)
    with monkeypatch.context() as patch:
        patch.setattr(claims.Claims, "renew", lambda *_: None)  # asleep
        workdir, watch = first.__enter__()
        (workdir / "config.json").write_text("theirs")
        watch.saved()
        with staged.staged(url, LEASE) as (another, _):
            assert (another / "config.json").read_text() == "theirs"
            (another / "config.json").write_text("ours")
        (workdir / "config.json").write_text("theirs again")
    with pytest.raises((InputError, PermissionError)):
        first.__exit__(None, None, None)
    assert open_bucket(url).read("config.json") == b"ours"
    with staged.staged(url, LEASE) as (workdir, _):
        assert (workdir / "config.json").read_text() == "ours"


def test_many_losses_block_nobody(url, monkeypatch):
    for _ in range(claims.MOST_LOST + 2):
        with monkeypatch.context() as patch:
            patch.setattr(claims.Claims, "end", lambda *_: None)
            with pytest.raises(Killed), staged.staged(url, 0.01):
                raise Killed
    with staged.staged(url, LEASE) as (workdir, _):
        assert not list(workdir.iterdir())


def test_a_store_that_is_gone_ends_the_run_and_the_last_state_stays(url, monkeypatch):
    put, calls = buckets.Bucket.put, iter(range(1000))

    def failing(self, key, content):
        if key == mirror.MANIFEST and next(calls):
            raise OSError(f"{url} gives no answer (lost)")
        put(self, key, content)

    with monkeypatch.context() as patch:
        patch.setattr(buckets.Bucket, "put", failing)
        with pytest.raises(OSError, match="gives no answer"):
            train(url)
    with staged.staged(url, LEASE) as (workdir, _):
        assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["2"]
    assert train(url)


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_run_on_an_emulator(kind):
    with emulators.bucket(kind) as url:
        workdir = f"{url}/runs/one"
        (result,) = train(workdir, SETTINGS | {"optim": {"epochs": 1}}, lease=claims.LEASE)
        assert result["steps"] == 2
        assert {"result.json", "metrics.jsonl", "injector.safetensors"} <= open_bucket(workdir).names()
        assert train(workdir, SETTINGS | {"optim": {"epochs": 1}}, lease=claims.LEASE) == [result]
