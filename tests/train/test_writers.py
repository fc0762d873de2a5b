"""Writers beside metrics.jsonl, and traces."""

import json
import struct

import jax
import pytest

from pini_jax.core import extras
from pini_jax.core.errors import InputError
from pini_jax.runs import experiment, population
from pini_jax.train import profile, recorder, writers
from pini_jax.train.watch import Watch

SETTINGS = {
    "clip": "tiny_clip",
    "views": 1,
    "num_draws": 2,
    "noise": {"image_features": {"generator": "table"}},
    "template": "a photo of the digit {}.",
    "zero_shot_template": "a photo of the digit {}.",
    "shots": 1,
    "log_every": 2,
    "checkpoint_every": 2,
    "optim": {"epochs": 4},
}


class Kept:
    """Keeps what it is given."""

    written: list = []

    def __init__(self, run, start):
        self.name = run.workdir.name
        self.written.append((self.name, "begun", start))

    def write(self, step, values):
        self.written.append((self.name, step, dict(values)))

    def close(self):
        self.written.append((self.name, "over", None))


def train(folder):
    (member,) = population.members(SETTINGS)
    return experiment.train_and_evaluate(member.config, folder)


def test_every_line_goes_to_every_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(Kept, "written", [])
    monkeypatch.setitem(writers.WRITERS, "kept", Kept)
    with writers.writing_to(["kept"]):
        train(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (_, *begun), *written, (_, *over) = Kept.written
    assert begun == ["begun", 0] and over == ["over", None] and len(written) == len(lines) == 2
    assert [{"step": step} | values for _, step, values in written] == lines


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(Kept, "written", [])
    monkeypatch.setitem(writers.WRITERS, "kept", Kept)
    with writers.writing_to(["kept"]):
        pass
    train(tmp_path / "run")
    assert not Kept.written


def test_an_unknown_writer_is_told():
    with pytest.raises(InputError, match="did you mean 'tensorboard'"), writers.writing_to(["tensorbord"]):
        pass


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_not_installed_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: exec("raise ImportError('no module')"))
    message = rf"pip install 'pini_jax\[{name}\]'"
    with pytest.raises(InputError, match=message), writers.writing_to([name]):
        train(tmp_path / "run")


def test_a_writer_that_cannot_open_leaves_no_file_open(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(recorder.MetricsFile, "__exit__", lambda *_: closed.append("metrics"))
    monkeypatch.setattr(recorder.Checkpoints, "__exit__", lambda *_: closed.append("checkpoints"))
    monkeypatch.setitem(writers.WRITERS, "broken", lambda run, start: 1 / 0)
    with writers.writing_to(["broken"]), pytest.raises(ZeroDivisionError):
        train(tmp_path / "run")
    assert closed == ["metrics", "checkpoints"]


def test_tensorboard_has_a_record_for_every_number(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs pini_jax[tensorboard]")
    with writers.writing_to(["tensorboard"]):
        train(tmp_path / "run")
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    content, records = file.read_bytes(), []
    while content:  # length, its checksum, the record, its checksum
        (length,) = struct.unpack("<Q", content[:8])
        records.append(content[12 : 12 + length])
        content = content[16 + length :]
    for name in (b"loss", b"accuracy", b"learning_rate"):
        assert sum(name in record for record in records) == 2


def test_weights_and_biases_stays_here_where_it_is_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs pini_jax[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with writers.writing_to(["wandb"]):
        train(tmp_path / "run")
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.parametrize(("calls", "traced"), [(3, []), (7, ["start", "stop"]), (20, ["start", "stop"])])
def test_a_trace_begins_late_and_ends(tmp_path, monkeypatch, calls, traced):
    said = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: said.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: said.append("stop"))
    with profile.traced(tmp_path) as stepped:
        for i in range(calls):
            stepped(i + 1, calls)
    assert said == traced


def test_evaluations_are_not_traced(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: said.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: said.append("stop"))
    with profile.traced(tmp_path) as stepped:
        for done in (1, 2, 3, 4, 4, 4):
            stepped(done, 4)
            said.append(done)
    assert "start" not in said
    with profile.traced(tmp_path) as stepped:
        for done in (1, 2, 3, 4, 5, 6, 6, 6):
            stepped(done, 6)
            said.append(done)
    assert said[said.index("start") :] == ["start", 5, "stop", 6, 6, 6]


def test_a_trace_of_a_run_is_a_file(tmp_path):
    config = population.members(SETTINGS | {"optim": {"epochs": 8}})[0].config
    with profile.traced(tmp_path / "profile") as stepped:
        experiment.train_together({tmp_path / "run": config}, Watch(stepped))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
