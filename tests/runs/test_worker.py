"""Workers of a sweep: what they publish, and what becomes of each other's work."""

import json
import os
import shutil
import threading
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

from launch import sweep_plan
from pini_jax.core import stop
from pini_jax.core.errors import InputError
from pini_jax.core.store import Folder
from pini_jax.report import collect
from pini_jax.runs import experiment, folder, plan, population, progress, provenance, worker
from pini_jax.runs.attempts import OnDisk, key_of
from pini_jax.runs.claims import Claim, Claims
from pini_jax.runs.worker import Options
from pini_jax.train.watch import Watch

NOISE = {"image_features": {"generator": "table"}}
SETTINGS = {
    "clip": "tiny_clip",
    "views": 2,
    "num_draws": 2,
    "noise": NOISE,
    "template": "a photo of the digit {}.",
    "zero_shot_template": "a photo of the digit {}.",
    "batch_size": 16,
    "log_every": 2,
    "checkpoint_every": 2,
    "optim": {"epochs": 4},
    "population": {"shots": (1, 4), "seed": (1, 2)},
}
ONCE = Options(retries=0)
BRIEF = ONCE._replace(lease=0.01)


@pytest.fixture
def sweep(tmp_path):
    """Two units of two runs."""
    plan.write_plan(plan.make_plan(SETTINGS, together=2), Folder(tmp_path))
    return tmp_path


class Training:
    """In place of training: notes what is asked for, and writes results, or does what a test wants."""

    def __init__(self, monkeypatch, act=lambda folders, watch: None):
        self.calls, self.act = [], act
        monkeypatch.setattr(experiment, "train_together", self)

    def __call__(self, folders, watch):
        self.calls.append([run.name for run in folders])
        for run in folders:
            run.mkdir(parents=True, exist_ok=True)
            (run / "checkpoint").write_text("step 1")
        watch.stepped(1, 2)
        self.act(folders, watch)
        for run in folders:
            (run / "result.json").write_text(json.dumps({"attempt": run.parent.name}))


def status(workdir, retries=0):
    return progress.read_progress(plan.read_plan(Folder(workdir)), worker.claims_store(workdir), retries=retries)


def results(workdir):
    return {run.parent.name: json.loads(run.read_text()) for run in workdir.glob("*/result.json")}


def test_a_worker_publishes_everything(sweep, monkeypatch):
    training = Training(monkeypatch)
    worker.work(sweep, ONCE)
    assert len(results(sweep)) == 4 and len(training.calls) == 2
    assert status(sweep).finished == 4 and not list((sweep / worker.OWN / "attempts").iterdir())
    worker.work(sweep, ONCE)
    assert len(training.calls) == 2


@pytest.mark.long
def test_one_worker_and_a_population_that_is_cut_alike_give_the_same_bits(sweep, tmp_path_factory):
    """Both units, trained for real; report reads what is there."""
    worker.work(sweep, ONCE)
    alone = tmp_path_factory.mktemp("alone")
    whole = plan.read_plan(Folder(sweep))
    for unit in range(len(whole.units)):
        experiment.train_together({alone / name: config for name, config in whole.configs(unit).items()})
    for run in population.members(SETTINGS):
        ours, theirs = (load_file(x / run.name / "injector.safetensors") for x in (sweep, alone))
        assert all((ours[key] == theirs[key]).all() for key in theirs)
        for file in ("metrics.jsonl", "config.json", "selection.json"):
            assert (sweep / run.name / file).read_bytes() == (alone / run.name / file).read_bytes()
        assert folder.finished(run.config, sweep / run.name)
    assert len(collect.read_runs([sweep])) == 4


def test_a_failure_is_recorded_and_stops_no_other(sweep, monkeypatch):
    def act(folders, watch):
        if any("seed_1" in run.name for run in folders):
            raise RuntimeError("a traceback\nRESOURCE_EXHAUSTED: out of memory")

    plan_of = plan.read_plan(Folder(sweep))
    bad = {run.name for unit in plan_of.units for run in unit if any("seed_1" in x.name for x in unit)}
    Training(monkeypatch, act)
    with pytest.raises(InputError, match=f"{len(bad)} runs have no result.*RESOURCE_EXHAUSTED"):
        worker.work(sweep, Options(retries=1))
    now = status(sweep, retries=1)
    assert now.failed == dict.fromkeys(bad, "RuntimeError: RESOURCE_EXHAUSTED: out of memory")
    assert now.finished == 4 - len(bad) == len(results(sweep)) and not now.waiting


def test_a_run_that_diverges_costs_its_unit_nothing(sweep, monkeypatch):
    def act(folders, watch):
        bad, good = sorted(folders)
        folder.record_failure(bad, f"training diverged: the loss is nan ({bad})")
        (good / "result.json").write_text("{}")
        raise InputError("diverged")

    Training(monkeypatch, act)
    with pytest.raises(InputError, match="2 runs have no result"):
        worker.work(sweep, ONCE)
    now = status(sweep)
    assert len(now.failed) == now.finished == 2 == len(results(sweep))
    assert all(reason == f"training diverged: the loss is nan ({name})" for name, reason in now.failed.items())


def test_retries_may_be_raised_later(sweep, monkeypatch):
    def act(folders, watch):
        raise InputError("the data are not there")

    training = Training(monkeypatch, act)
    with pytest.raises(InputError):
        worker.work(sweep, ONCE)
    assert len(status(sweep).failed) == 4
    training.act = lambda folders, watch: None
    worker.work(sweep, Options(retries=1))
    assert status(sweep, retries=1).finished == 4


def test_a_request_to_stop_gives_the_claim_back(sweep, monkeypatch):
    def act(folders, watch):
        raise stop.Stopped

    training = Training(monkeypatch, act)
    with pytest.raises(stop.Stopped):
        worker.work(sweep, ONCE)
    assert status(sweep).waiting == 4 and not results(sweep)
    training.act = lambda folders, watch: None
    worker.work(sweep, Options(retries=0, wait=False))
    assert len(results(sweep)) == 4


def take_over(workdir, unit):
    """Another worker's claim on a unit, as if the lease of the one before was over."""
    claims = Claims(worker.claims_store(workdir), 2, "another")
    claim = Claim(unit, claims.look(0)[unit].number + 1)
    assert claims.store.create(claim.key(), b"{}")
    return claims, claim


def test_who_was_asleep_publishes_nothing(sweep, monkeypatch):
    """And the one who took over goes on from its checkpoints."""
    taken = []

    def act(folders, watch):
        if not taken:
            unit = int(next(iter(folders)).parent.name.partition(".")[0])
            taken.append(take_over(sweep, unit))

    training = Training(monkeypatch, act)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_taken", lambda claims, wait: iter([claims.take()]))
        worker.work(sweep, ONCE)
    assert not results(sweep) and len(training.calls) == 1
    ((claims, claim),) = taken
    before = sweep / worker.OWN / "attempts" / f"{claim.unit:06d}.001"
    assert all((run / "checkpoint").exists() for run in before.iterdir())
    for run in before.iterdir():
        (run / "result.json").unlink()
        (run / "checkpoint").write_text("step 100")
    seen = []
    training.act = lambda folders, watch: seen.extend(folders)
    monkeypatch.setattr(
        Training,
        "__call__",
        lambda self, folders, watch: seen.extend((run / "checkpoint").read_text() for run in folders),
    )
    worker.train_claimed(OnDisk(sweep), plan.read_plan(Folder(sweep)), claims, claim)
    assert seen == ["step 100", "step 100"]


def test_what_is_published_stays(sweep, monkeypatch):
    """Where somebody publishes between the question who holds the claim and the renaming."""
    Training(monkeypatch)
    whole = plan.read_plan(Folder(sweep))
    configs = whole.configs(0)
    for number in (1, 2):
        for name in configs:
            run = sweep / key_of(Claim(0, number)) / name
            run.mkdir(parents=True)
            (run / "result.json").write_text(str(number))
    rename = os.rename

    def late(source, target):
        for name in configs:
            shutil.copytree(sweep / key_of(Claim(0, 1)) / name, sweep / name, dirs_exist_ok=True)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    OnDisk(sweep).publish(Claim(0, 2), configs)
    assert [(sweep / name / "result.json").read_text() for name in configs] == ["1", "1"]


def test_published_runs_of_a_unit_are_known_to_who_goes_on(sweep, monkeypatch):
    """Killed between two of its runs."""
    Training(monkeypatch)
    whole = plan.read_plan(Folder(sweep))
    first = whole.units[0][0].name
    (sweep / first).mkdir()
    (sweep / first / "result.json").write_text("published")
    OnDisk(sweep).prepare(Claim(0, 3), whole.configs(0))
    copied = sweep / worker.OWN / "attempts" / "000000.003"
    assert [path.name for path in copied.iterdir()] == [first]
    worker.work(sweep, ONCE)
    assert (sweep / first / "result.json").read_text() == "published" and status(sweep).finished == 4


def test_killed_before_the_end_is_told(sweep, monkeypatch):
    """Nothing is left behind that nobody would delete, and what is published stays."""

    class Killed(BaseException):
        pass

    def end(claims, claim, how, content):
        raise Killed

    Training(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Claims, "end", end)
        worker.work(sweep, BRIEF)
    assert not list((sweep / worker.OWN / "attempts").iterdir()) and len(results(sweep)) == 2
    published = results(sweep)
    worker.work(sweep, BRIEF)
    assert results(sweep).items() >= published.items() and status(sweep).finished == 4


def test_somebody_elses_folder_is_a_failure(sweep, monkeypatch):
    Training(monkeypatch)
    whole = plan.read_plan(Folder(sweep))
    theirs = sweep / whole.units[0][0].name / "checkpoints"
    theirs.mkdir(parents=True)
    with pytest.raises(InputError, match="1 runs have no result"):
        worker.work(sweep, ONCE)
    assert status(sweep).finished == 3 and theirs.exists()


def claimed(sweep, lease):
    """Claims with one that was taken, and an event that is set whenever it was renewed."""
    claims, renewed = Claims(worker.claims_store(sweep), 2, "one", lease=lease), threading.Event()
    renew = claims.renew
    claims.renew = lambda *said: (renew(*said), renewed.set())
    return claims, claims.take(), renewed


def test_a_lease_says_how_far_the_unit_is_and_ends_who_has_lost_it(sweep):
    claims, claim, renewed = claimed(sweep, lease=0.04)
    with worker.Lease(claims, claim) as lease:
        lease.report(5, 10)
        renewed.clear()
        assert renewed.wait(60)
        said = json.loads(claims.store.read(claim.key()))
        assert said["worker"] == "one" and (said["start"], said["step"], said["steps"]) == (4, 5, 10)
        lease._lost = True
        with pytest.raises(worker.Lost):
            lease.report(6, 10)


def test_a_first_step_is_told_at_once(sweep):
    """So that a worker that is lost soon after it is none that its unit has killed."""
    claims, claim, renewed = claimed(sweep, lease=3600.0)
    with worker.Lease(claims, claim) as lease:
        lease.report(5, 10)
        assert renewed.wait(60) and json.loads(claims.store.read(claim.key()))["step"] == 5


def test_two_workers_at_once_share_the_work(sweep, monkeypatch):
    """Both are in a unit at the same time; none is trained twice."""
    together = threading.Barrier(2, timeout=60)
    training = Training(monkeypatch, lambda folders, watch: together.wait())
    threads = [threading.Thread(target=worker.work, args=(sweep, Options(wait=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results(sweep)) == 4 and len(training.calls) == 2


def left_by_the_first(sweep):
    """The attempt of claim 1 on unit 0, with all files of its runs; and their names."""
    names = list(plan.read_plan(Folder(sweep)).configs(0))
    attempt = sweep / key_of(Claim(0, 1))
    for name in names:
        (attempt / name).mkdir(parents=True)
        for file in ("result.json", "predictions.parquet", "injector.safetensors"):
            (attempt / name / file).write_text(f"{name} {file}")
    return attempt, names


def test_a_copy_that_was_cut_off_counts_for_nothing(sweep, monkeypatch):
    """What the worker before has left is whole, or is looked for further back."""

    class Killed(BaseException):
        pass

    def dying(source, target, ignore):
        target.mkdir()
        shutil.copy2(source / "result.json", target)
        raise Killed

    attempt, names = left_by_the_first(sweep)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "copytree", dying)
        OnDisk(sweep).prepare(Claim(0, 2), names)
    again = OnDisk(sweep).prepare(Claim(0, 3), names)
    for name in names:
        assert {x.name for x in (again / name).iterdir()} == {x.name for x in (attempt / name).iterdir()}


def test_a_full_disk_publishes_nothing(sweep, monkeypatch):
    """Copies that are not whole are a failure with its reason, and are tried again."""

    def full(source, target, ignore):
        target.mkdir()
        (target / "result.json").write_text("")
        raise shutil.Error([(str(source / "result.json"), str(target), "[Errno 28] No space left on device")])

    left_by_the_first(sweep)
    claims = Claims(worker.claims_store(sweep), 2, "one")
    assert claims.store.create(Claim(0, 1).key(), b"{}") and claims.store.create(Claim(0, 1).key("stopped"), b"{}")
    Training(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left on device"):
        patch.setattr(shutil, "copytree", full)
        worker.work(sweep, ONCE)
    assert len(results(sweep)) == 2
    worker.work(sweep, Options(retries=1))
    assert len(results(sweep)) == 4


def test_who_comes_after_failures_hears_of_them(sweep, monkeypatch):
    def act(folders, watch):
        raise InputError("the data are not there")

    Training(monkeypatch, act)
    for _ in range(2):
        with pytest.raises(InputError, match="4 runs have no result.*the data are not there"):
            worker.work(sweep, ONCE)


def test_a_store_that_is_away_for_a_while_ends_no_training(sweep, monkeypatch):
    def act(folders, watch):
        watch.saved()

    def away(attempts):
        if not saves:
            saves.append("away")
            raise OSError("the store gives no answer")

    saves = []
    monkeypatch.setattr(OnDisk, "save", away)
    Training(monkeypatch, act)
    worker.work(sweep, ONCE)
    assert saves and len(results(sweep)) == 4


def test_the_claim_is_renewed_while_results_are_published(sweep, monkeypatch):
    seen, publish = [], OnDisk.publish

    def watched(attempts, claim, names):
        seen.append("lease" in {thread.name for thread in threading.enumerate()})
        return publish(attempts, claim, names)

    monkeypatch.setattr(OnDisk, "publish", watched)
    Training(monkeypatch)
    worker.work(sweep, ONCE)
    assert seen == [True, True]


def test_a_plan_is_not_written_over_the_claims_of_another(sweep, monkeypatch):
    Training(monkeypatch)
    worker.work(sweep, ONCE)
    for path in (sweep / "plan.jsonl", *sweep.glob("shots*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=r"another command began \(\.sweep\)"):
        sweep_plan.write(plan.make_plan(SETTINGS, together=2), sweep)


def test_what_is_evaluated_is_told_at_once(monkeypatch):
    """A worker that is lost in its evaluations has got on, and others need not make them again."""
    trainees = [SimpleNamespace(run=SimpleNamespace(workdir=name, num_steps=5)) for name in "ab"]
    monkeypatch.setattr(experiment.measured, "open_splits", lambda runs: {})
    monkeypatch.setattr(experiment, "_finish", lambda trainee, *rest: {"accuracy": 1.0})
    told = []
    watch = Watch(lambda done, total: told.append((done, total)), lambda: told.append("saved"))
    experiment.evaluate_runs(trainees, provenance.Clock(), 1, watch)
    assert told == ["saved", (10, 10), "saved", (10, 10)]
