"""The command for accelerators: every phase gives its rows on a CPU, in small, and what fails costs no other."""

import json
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import flops, inputs, timing
from benchmarks.accelerator import machine, peers, steps, tasks, text, training
from benchmarks.accelerator.__main__ import PHASES, main
from benchmarks.accelerator.results import finite
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.text import Variant
from benchmarks.accelerator.work import Ahead
from pini_jax.clip import prompts


def rows_of(folder, *phases):
    with mock.patch.object(timing, "age", lambda: 1.0):  # the process of the tests may be older than a run may be
        main([f"--output={folder}", "--phases", *phases])
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


BARE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop().split(",")))  # as if none of them were installed
from benchmarks.accelerator.__main__ import main
main(sys.argv[1:])
"""
STAND_INS = ["ml_collections", "arro3.core", "arro3.io"]
OURS = "arro3,filelock,jaxtyping,ml_collections,PIL,safetensors,tabulate,tokenizers,tqdm"


def run_without(names, folder, *words):
    """The machine, and the rows, of a process that does not find these packages."""
    command = [sys.executable, "-c", BARE, f"--output={folder}", *words, names]
    subprocess.run(command, check=True, capture_output=True)
    machine, *rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return machine, rows


@pytest.mark.long
def test_every_phase_gives_numbers_without_packages_of_ours(tmp_path):
    """In a process that finds jax, flax, optax, numpy and what these need."""
    machine, rows = run_without(OURS, tmp_path)
    assert machine["versions"]["jax"] and machine["without"] == ["jaxtyping", "tokenizers", *STAND_INS]
    assert list(dict.fromkeys(row["phase"] for row in rows)) == list(PHASES)
    left_out = {row.get("switch", row["phase"]): row["left_out"] for row in rows if "left_out" in row}
    assert left_out.keys() == {"peers", "image_peers", "training", "flash"}
    assert all("missing" in left_out[phase] for phase in ("peers", "image_peers", "training"))
    assert all(row["ms"] > 0 for row in rows if "ms" in row)
    (step,) = (row for row in rows if row["phase"] == "text")
    assert np.isfinite(step["loss"]) and step["loss"] > 0


@pytest.mark.long
@pytest.mark.parametrize("without", ["", "ml_collections,arro3"])
def test_a_whole_training_says_where_its_seconds_go(tmp_path, without):
    machine, rows = run_without(without, tmp_path, "--phases", "training")
    assert machine["without"] == (STAND_INS if without else [])
    row, split, together = rows
    assert row["steps"] == 1 and row["total"] > sum(row["seconds"].values()) / 2
    assert row["seconds"].keys() == {"setup", "compile", "train", "evaluate"}
    assert split["saves"] == 1 and split["shares"] == training.shares(split["parts"], 1)
    assert min(split["parts"].values()) > 0
    assert together["members"] == 2 and together["ratio"] == together["population"] / together["sequential"]


def test_shares_set_checkpoints_apart_from_what_else_is_not_a_step():
    seconds = dict(whole=10.0, steps=6.0, batches=1.0, checkpoints=2.0, saved_once=7.0)
    # One of four checkpoints is half a second, so that half a second more than the steps is the host's.
    expected = dict(not_steps=0.4, checkpoints=0.35, between_steps=0.05)
    assert training.shares(seconds, saves=4) == pytest.approx(expected)


@pytest.mark.long
def test_pytorchs_image_tower_computes_the_same(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    _, ours, *theirs = rows_of(tmp_path, "image_peers")
    assert ours["side"] == "ours" and "difference" not in ours
    assert [row["side"] for row in theirs] == ["sdpa, as it is", "sdpa, compiled"]
    for row in (ours, *theirs):
        assert "left_out" in row or row["per_second"] == pytest.approx(1e3 * row["batch"] / row["ms"])
    assert theirs[0]["difference"] < 1e-4


@pytest.mark.long
def test_pytorchs_step_begins_with_the_same_loss(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    _, row = rows_of(tmp_path, "peers")
    assert row["pytorch_loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert row["ratio"] == pytest.approx(row["pytorch_ms"] / row["ms"])


@pytest.mark.long
def test_where_pytorchs_step_does_not_fit_ours_stands():
    class Full:
        said = dict(losses={}, left_out={"10": "does not fit 80 GB"})

    works = {10: text.text_work(Variant("tiny", 10))}
    (row,) = peers.compare(lambda: (works, Full()), 10)
    assert row["left_out"] == "PyTorch: does not fit 80 GB" and row["loss"] > 0


def test_what_cannot_be_compiled_is_left_out_and_the_rest_stands(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks import random_clip, torch_clip

    def refuse(encode):
        def compiled():
            raise RuntimeError("no compiler\nin a long trace")

        return compiled

    served = {}
    monkeypatch.setattr(torch_clip.torch, "compile", refuse)
    monkeypatch.setattr(timing, "serve", lambda works, **said: served.update(said, works=works))
    random_clip.write(tmp_path, SIZES["tiny"])
    torch_clip.serve_images(tmp_path, batch=2, dtype="float32")
    assert served["ways"] == list(served["works"]) == ["sdpa, as it is"]
    assert served["left_out"] == {"sdpa, compiled": "RuntimeError: no compiler"}
    assert np.load(tmp_path / "sdpa, as it is.npy").shape == (2, SIZES["tiny"].embed_dim)


STUCK = """
import sys, threading
from benchmarks import timing
from benchmarks.accelerator import __main__, peak

def tasks(scale):
    threading.Event().wait()  # as for a device that never answers

peak.tasks = tasks
__main__.main([f"--output={sys.argv[1]}", "--phases", "peak", f"--limit={timing.age() + 3}"])
"""


def test_at_the_limit_what_is_written_stays_and_a_line_says_so(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], check=True, capture_output=True, text=True)
    written = (tmp_path / "results.jsonl").read_text()
    first, last = map(json.loads, written.splitlines())
    assert first["phase"] == "machine" and last["phase"] == "end" and "all that comes after" in last["left_out"]
    assert last["at"] >= 3 and done.stdout == written
    assert not list(temporary.iterdir())


AGED = """
import time
start = time.monotonic()
import numpy  # takes some time
from benchmarks import timing
print(start, timing.age(), time.monotonic())
"""


def test_a_process_ages_from_its_start_and_not_from_an_import():
    before, tick = time.monotonic(), 0.02
    done = subprocess.run([sys.executable, "-c", AGED], check=True, capture_output=True, text=True)
    start, age, now = map(float, done.stdout.split())
    assert age <= now - before + tick
    assert age >= now - start - tick or not timing.PROC.exists()


def test_what_fails_costs_nothing_else(tmp_path, monkeypatch):
    def breaks():
        yield dict(what="first")
        raise RuntimeError("of a device\nthat nobody has seen")

    def missing(scale):
        yield Task(dict(tower="a"), breaks)
        yield Task(dict(tower="b"), lambda: [dict(ms=float("nan"))])
        raise ModuleNotFoundError("No module named 'orbax'", name="orbax")

    monkeypatch.setattr(text, "tasks", missing)
    _, first, broken, second, absent, *rest = rows_of(tmp_path, "text", "peak")
    assert first["what"] == "first" and first["tower"] == broken["tower"] == "a"
    assert broken["left_out"] == "RuntimeError: of a device\nthat nobody has seen"
    assert broken["trace"][-1].startswith("test_accelerator.py") and broken["trace"][-1].endswith(" breaks")
    assert second["tower"] == "b" and second["ms"] == "nan"
    assert absent["left_out"] == "orbax is missing"
    assert {row["phase"] for row in rest} == {"peak"}


def test_an_import_that_fails_within_a_package_is_no_missing_package():
    error = ImportError("cannot import name 'x' from 'y'", name="y")
    assert tasks.failure(error)["left_out"] == "ImportError: cannot import name 'x' from 'y'"


def test_what_comes_too_late_is_named_and_not_begun(monkeypatch):
    age, rows = [0.0], []

    def measure():
        age[0] += 10
        yield dict(ms=1)

    monkeypatch.setattr(timing, "age", lambda: age[0])
    tasks.run((Task(dict(classes=n), measure) for n in (1000, 100, 10)), 15, rows.append)
    late = dict(left_out="not begun before 15 seconds", rows=[dict(classes=10)])
    assert rows == [dict(classes=1000, ms=1), dict(classes=100, ms=1), late]


def test_what_is_made_once_fails_once():
    made = []

    def fail():
        made.append("again")
        raise ValueError("no")

    get = tasks.once(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            get()
    assert made == ["again"]


def test_works_are_made_once_after_what_all_need_and_each_fails_alone():
    made = []

    def fail():
        raise ValueError("no")

    works = Ahead({10: lambda: made.append(10) or "a step", 100: fail}, first=lambda: made.append("first"))
    assert made == []
    assert works[10] == works[10] == "a step"
    with pytest.raises(ValueError, match="no"):
        works[100]
    assert made == ["first", 10]


def test_the_same_step_is_compiled_once():
    assert Variant("tiny", 10) == Variant("tiny", 10, remat=False, row=prompts.ROW)
    assert text.text_step(Variant("tiny", 10)) is text.text_step(Variant("tiny", 10, False))


def test_a_second_run_adds_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "tasks", lambda scale: [Task(dict(tower="a"), lambda: [dict(ms=1)])])
    rows_of(tmp_path, "text")
    assert [row["phase"] for row in rows_of(tmp_path, "text")] == ["machine", "text"] * 2


def test_a_card_that_jax_does_not_find_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "tasks", lambda scale: [])
    monkeypatch.setattr(machine, "nvidia_smi", lambda *arguments: "GPU 0: NVIDIA H100")
    monkeypatch.setattr(machine, "asked_for_cpu", lambda: True)
    rows_of(tmp_path, "text")
    monkeypatch.setattr(machine, "asked_for_cpu", lambda: False)
    with pytest.raises(SystemExit, match="JAX found none"):
        rows_of(tmp_path, "text")


def test_what_is_no_number_is_a_word():
    found = finite(dict(loss=float("nan"), parts=[1.0, float("-inf")], left=None))
    assert json.loads(json.dumps(found, allow_nan=False)) == dict(loss="nan", parts=[1.0, "-inf"], left=None)


@pytest.mark.long
def test_many_steps_in_a_call_are_steps_that_follow_each_other():
    step = text.text_step(Variant("tiny", 10))
    phi, *fixed, key = step.arguments
    call, keys = jax.jit(step.call), jax.random.split(key, 4)
    expected, losses = [phi], []
    for each in keys[:3]:
        after, loss = call(expected[-1], *fixed, each)
        expected.append(after)
        losses.append(loss)

    def moved(after, before):
        return jax.tree.map(np.subtract, after, before)["prompt_tokens"]["mean"]

    whole, last = moved(expected[-1], phi), moved(expected[-1], expected[-2])
    assert np.abs(last).max() > 1e-2 * np.abs(whole).max()  # a step more or less shows
    scanned = jax.jit(steps.scan(step.call))(phi, *fixed, keys[:3])
    looped = jax.jit(steps.loop(step.call))(phi, *fixed, keys, 3)
    for found, all_losses in (scanned, looped):
        np.testing.assert_allclose(all_losses[:3], losses, rtol=1e-5)
        np.testing.assert_allclose(moved(found, phi), whole, rtol=0, atol=1e-3 * np.abs(whole).max())


@pytest.mark.parametrize("classes", [10, 37])
def test_a_step_needs_twice_the_way_there_and_attention_once_more(classes):
    packed = prompts.pack(inputs.make_prompts(inputs.LENGTHS[classes], 49408))
    forwards = flops.prompts_flops(inputs.VIT_B_16, packed)
    assert 2 * forwards < flops.step_flops(inputs.VIT_B_16, packed) < 2.2 * forwards
