"""Sweeps whose workdir is in a bucket: workers share it, nothing is lost or published twice."""

import json
import subprocess
import sys

import emulators
import pytest
from safetensors.numpy import load_file

from launch import sweep_plan, sweep_status
from pini_jax.core import bucket as buckets
from pini_jax.core import stop
from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.core.store import open_store
from pini_jax.report.__main__ import readable
from pini_jax.runs import claims, experiment, plan, progress, worker
from pini_jax.runs.claims import Claims
from pini_jax.runs.worker import Options

SETTINGS = {
    "clip": "tiny_clip",
    "views": 1,
    "num_draws": 2,
    "noise": {"image_features": {"generator": "table"}},
    "template": "a photo of the digit {}.",
    "zero_shot_template": "a photo of the digit {}.",
    "batch_size": 10,
    "log_every": 1,
    "checkpoint_every": 1,
    "optim": {"epochs": 2},
    "population": {"shots": (1, 2), "seed": (1, 2)},
}
ONCE = Options(retries=0)
BRIEF = ONCE._replace(lease=0.01)


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setattr(buckets, "PAUSES", (0.0, 0.0))
    with emulators.bucket("memory") as url:
        planned(f"{url}/sweep")
        yield f"{url}/sweep"


def planned(url):
    sweep_plan.write(plan.make_plan(SETTINGS, together=2), url)


class Training:
    """In place of training: a checkpoint, and then a result, or what a test wants."""

    def __init__(self, monkeypatch, act=lambda folders: None):
        self.found, self.act = [], act
        monkeypatch.setattr(experiment, "train_together", self)

    def __call__(self, folders, watch):
        watch.stepped(1, 2)
        for run in folders:
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            self.found.append((run / "checkpoints" / "1").exists() or (run / "result.json").exists())
            (run / "checkpoints" / "1").write_text("one")
        watch.saved()
        self.act(folders)
        for run in folders:
            if not (run / "result.json").exists():
                (run / "metrics.jsonl").write_text("{}\n")
                (run / "result.json").write_text(json.dumps({"attempt": run.parent.name}))


def status(url):
    return progress.read_progress(plan.read_plan(open_store(url)), worker.claims_store(url), retries=0)


def results(url):
    place = open_bucket(url)
    return {
        key.partition("/")[0]: place.read(key)
        for key in place.objects()
        if key.count("/") == 1 and "result" in key
    }


def test_a_worker_publishes_everything(url, monkeypatch):
    Training(monkeypatch)
    worker.work(url, ONCE)
    assert len(results(url)) == 4 and status(url).finished == 4
    keys = open_bucket(url).objects()
    assert not [key for key in keys if "attempts" in key or "checkpoints" in key]
    assert sum("metrics.jsonl" in key for key in keys) == 4


def test_a_plan_is_not_written_over_runs(url):
    open_bucket(url).put("other/shots_1-seed_1/config.json", b"{}")
    with pytest.raises(InputError, match="holds runs that another command began"):
        planned(f"{url}/other")


def test_who_takes_over_goes_on_from_what_was_pushed(url, monkeypatch):
    def stopped(folders):
        raise stop.Stopped

    training = Training(monkeypatch, stopped)
    with pytest.raises(stop.Stopped):
        worker.work(url, ONCE)
    assert training.found == [False, False]
    training.act = lambda folders: None
    worker.work(url, ONCE)
    assert sorted(training.found[2:]) == [False, False, True, True] and len(results(url)) == 4


def test_a_failure_is_recorded(url, monkeypatch):
    def fail(folders):
        raise RuntimeError("out of memory")

    Training(monkeypatch, fail)
    with pytest.raises(InputError, match="4 runs have no result.*out of memory"):
        worker.work(url, ONCE)
    assert set(status(url).failed.values()) == {"RuntimeError: out of memory"} and not results(url)


def test_who_was_asleep_publishes_nothing(url, monkeypatch):
    """It is replaced while it trains; what it has pushed is not read, and what it would publish is not there."""
    whole, training = plan.read_plan(open_store(url)), Training(monkeypatch)
    asleep = Claims(worker.claims_store(url), 2, "asleep")
    claim = asleep.take()

    def replaced(folders):
        training.act = lambda folders: None
        another = Claims(worker.claims_store(url), 2, "another", lease=0.001)
        while (newer := another.take()) is None or newer.unit != claim.unit:
            pass
        with worker.open_attempts(url, another) as attempts:
            worker.train_claimed(attempts, whole, another, newer)

    training.act = replaced
    with worker.open_attempts(url, asleep) as attempts:
        worker.train_claimed(attempts, whole, asleep, claim)
    assert {json.loads(x)["attempt"] for x in results(url).values()} == {f"{claim.unit:06d}.002"}


def test_killed_while_publishing(url, monkeypatch):
    """Half of the objects are there; whoever comes publishes the rest, and they are of one attempt."""

    class Killed(BaseException):
        pass

    create = buckets.Bucket.create

    def dying(self, key, content):
        if key.endswith("/result.json"):
            raise Killed
        return create(self, key, content)

    Training(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(buckets.Bucket, "create", dying)
        with pytest.raises(Killed):
            worker.work(url, BRIEF)
    assert not results(url)
    worker.work(url, BRIEF)
    assert len(results(url)) == 4 and status(url).finished == 4


def test_status_asks_little(url, monkeypatch, capsys):
    Training(monkeypatch)
    worker.work(url, ONCE)
    asked = []
    ask = buckets.Bucket._ask
    monkeypatch.setattr(buckets.Bucket, "_ask", lambda self, request: asked.append(1) or ask(self, request))
    values = sweep_status.flags.FlagValues()
    sweep_status.define_flags(values)
    values(["status"])
    sweep_status.main(values, [url])
    assert "sweep: 4 runs, 4 finished" in capsys.readouterr().out and len(asked) == 3  # plan, lease, a folder


def train_by(url, workers):
    """So many workers, each a process; their statuses."""
    words = [sys.executable, "-m", "pini_jax.launch.sweep_run", f"--workdir={url}", "--retries=0"]
    begun = [subprocess.Popen(words) for _ in range(workers)]
    return [process.wait() for process in begun]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_two_workers_give_the_bits_of_a_disk(kind, tmp_path):
    planned(tmp_path)
    worker.work(tmp_path, ONCE)
    with emulators.bucket(kind) as bucket:
        planned(url := f"{bucket}/sweep")
        assert train_by(url, 2) == [0, 0]
        now = status(url)
        assert (now.finished, now.failed, len(results(url))) == (4, {}, 4)
        copied = readable(url)
        names = [key for key in worker.claims_store(url).times(claims.shard_key(0)) if key.endswith(".finished")]
        assert len(names) == 2
    for run in plan.read_plan(open_store(tmp_path)).runs:
        ours, theirs = (load_file(x / run.name / "injector.safetensors") for x in (copied, tmp_path))
        assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in theirs)
        for file in ("metrics.jsonl", "config.json", "selection.json", "predictions.parquet"):
            assert (copied / run.name / file).read_bytes() == (tmp_path / run.name / file).read_bytes()


def test_a_slash_at_the_end_makes_no_other_sweep(url, monkeypatch):
    training = Training(monkeypatch)
    worker.work(f"{url}/", ONCE)
    worker.work(url, ONCE)
    assert len(training.found) == 4 and status(url).finished == status(f"{url}/").finished == 4


def test_who_wakes_up_while_publishing_writes_over_nothing(url, monkeypatch):
    """It held the newest claim when it asked, and slept until another one had published."""
    name = next(iter(plan.read_plan(open_store(url)).configs(0)))
    publish, woken = worker.InBucket.publish, []

    def asleep(attempts, claim, names):
        if claim.unit == 0 and not woken:
            woken.append(claim)
            open_bucket(url).put(f"{name}/metrics.jsonl", b"of another")
            open_bucket(url).put(f"{name}/result.json", b'{"attempt": "of another"}')
        return publish(attempts, claim, names)

    monkeypatch.setattr(worker.InBucket, "publish", asleep)
    Training(monkeypatch)
    worker.work(url, ONCE)
    assert results(url)[name] == b'{"attempt": "of another"}'
    assert open_bucket(url).read(f"{name}/metrics.jsonl") == b"of another"
