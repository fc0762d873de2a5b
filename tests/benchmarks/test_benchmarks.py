"""What the benchmarks say is so: lengths of prompts, counted operations, and that both sides compute the same."""

import functools
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from split_files import find_split

from benchmarks import flops, inputs, random_clip, share, step, timing
from pini_jax.clip import pretrained, prompts, tokenizer, towers, zero_shot
from pini_jax.clip.architecture import Architecture, Image, TextSizes, Transformer
from pini_jax.data import templates
from pini_jax.data.datasets import coop

TINY = Architecture(
    Image(12, 4, Transformer(32, 2, 2, 96)), TextSizes(700, 77, Transformer(16, 2, 2, 48, causal=True)), 24
)
DATA = os.environ.get("PINI_DATA_DIR")
PETS = inputs.LENGTHS[37]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("clip")
    random_clip.write(made, TINY)
    return made


@pytest.fixture(scope="module")
def made():
    return inputs.make_prompts(PETS, TINY.text.vocab_size)


@pytest.mark.parametrize("classes", inputs.LENGTHS)
def test_lengths_are_of_so_many_classes(classes):
    lengths = inputs.LENGTHS[classes]
    assert sum(lengths.suffix.values()) == classes
    built = inputs.make_prompts(lengths, 49408)
    at = built.end - np.arange(classes) * built.suffix.shape[1]
    assert sorted(at + 1) == sorted(np.repeat([*lengths.suffix], [*lengths.suffix.values()]))
    assert ((built.suffix == 49407).sum(1) == built.suffix.shape[1] - at).all()  # from the end token on


def test_imagenet_is_as_published():
    lengths = inputs.LENGTHS[1000].suffix
    assert round(sum(n * classes for n, classes in lengths.items()) / 1000, 1) == 4.2
    assert max(lengths) == 13


@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
@pytest.mark.parametrize("classes, name", [(1000, "imagenet"), (37, "oxford_pets"), (10, "eurosat")])
def test_lengths_are_those_of_the_names(classes, name, tmp_path):
    data_dir = Path(DATA)
    words = tokenizer.load_tokenizer(data_dir / "tokenizer")
    files = {"oxford_pets": "split_zhou_OxfordPets.json", "eurosat": "split_zhou_EuroSAT.json"}
    if name in files:
        text = (data_dir / "splits" / files[name]).read_text()
        names = find_split(name, text, tmp_path).dataset.class_names
    else:
        names = tuple(coop.imagenet_names().values())
    (template,) = templates.find_templates("released", name)
    built = prompts.build(words, template, names, inputs.VIT_B_16.text)
    found, counts = np.unique(built.end - np.arange(classes) * built.suffix.shape[1] + 1, return_counts=True)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == inputs.LENGTHS[classes].suffix
    assert len(built.prefix) == inputs.LENGTHS[classes].prefix


def test_whole_prompts_mean_the_same(folder, made):
    clip, whole = pretrained.load_clip(str(folder)), inputs.whole(made, 77)
    shared = zero_shot.encode_classes(clip.text_tower, clip.theta, prompts.pack(made))[0]
    apart = jax.jit(clip.text_tower.apply)({"params": clip.theta["text"]}, *whole)
    np.testing.assert_allclose(shared, apart, rtol=1e-4, atol=1e-4)
    assert np.abs(apart - apart[0]).max() > 0.1  # classes differ


# XLA counts the body of a loop once, so that there is one layer; and what is no product, which is a few percent.
WIDE = Architecture(
    Image(32, 8, Transformer(128, 1, 2, 512)), TextSizes(700, 77, Transformer(96, 1, 2, 384, causal=True)), 48
)


def counted(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_operations_are_those_that_xla_counts(made):
    image, text = towers.image_tower(WIDE, jnp.float32), towers.TextTower(WIDE.text, WIDE.embed_dim)
    pixels, whole = np.zeros((1, 32, 32, 3), np.float32), inputs.whole(made, 77)
    packed = prompts.pack(made)
    one = [x[:1] for x in whole]
    theta = {
        "image": jax.eval_shape(image.init, jax.random.key(0), pixels)["params"],
        "text": jax.eval_shape(text.init, jax.random.key(0), *one)["params"],
    }
    shared = functools.partial(zero_shot.encode_classes, text)
    found = [
        (counted(image.apply, {"params": theta["image"]}, pixels), flops.image_flops(WIDE)),
        (counted(text.apply, {"params": theta["text"]}, *one), flops.text_flops(WIDE, 77)),
        (counted(shared, theta, packed), flops.prompts_flops(WIDE, packed)),
    ]
    for xla, ours in found:
        assert ours < xla < 1.1 * ours


def test_both_sides_take_the_same_steps(folder, made):
    """Losses and all trainables, after two steps with draws of their own."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    from benchmarks import torch_clip

    lr = 0.05
    numbers = inputs.make_numbers(TINY, made, steps=2)
    ours = step.Training(pretrained.load_clip(str(folder)), made, numbers, lr)
    theirs = torch_clip.Training(torch_clip.load(folder), inputs.whole(made, 77), numbers, lr)
    found = torch_clip.encode_images(theirs.clip, torch_clip.images(numbers.pixels))
    first = jax.tree.map(np.array, ours.state.phi)
    for normals in numbers.normals:
        loss = ours.replay(found.numpy(), normals)
        assert loss == pytest.approx(theirs.replay(found, normals), rel=1e-5)
        assert abs(loss - np.log(37)) > 1e-3
    phi, linears = ours.state.phi, theirs.noise.linears
    pairs = {"mean": theirs.noise.mean, "scale": theirs.noise.scale}
    pairs = [(phi["prompt_tokens"][name], first["prompt_tokens"][name], x) for name, x in pairs.items()]
    for name, part in phi["image_features"].items():
        before = first["image_features"][name]
        pairs += [(part["kernel"], before["kernel"], linears[name].weight.T)]
        pairs += [(part["bias"], before["bias"], linears[name].bias)]
    for a, before, b in pairs:
        moved = np.abs(a - before).max()
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=max(1e-3 * moved, 1e-6))


def test_the_timed_step_trains(folder, made):
    numbers = inputs.make_numbers(TINY, made, steps=0)
    training = step.Training(pretrained.load_clip(str(folder)), made, numbers, 0.05)
    losses = [training.step(numbers.features) for _ in range(12)]
    assert len(set(losses)) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_times_are_the_median_and_the_spread():
    assert timing.summarise([3, 1, 100]) == (3, 1, 100)


def test_turns_alternate():
    order = []

    class Worker:
        def seconds(self, work):
            order.append(work)
            return len(order)

    worker = Worker()
    assert timing.in_turn({"a": (worker, "x"), "b": (worker, "y")}, 3) == {"a": (3, 1, 5), "b": (4, 2, 6)}
    assert order == ["x", "y"] * 3


CHATTY = """
import os, sys
print("a library says hello", flush=True)
os.system("echo so does a program")
from benchmarks import timing
timing.serve({"work": lambda: print("and again", flush=True), "end": lambda: os._exit(3)}, said="ready")
"""


def test_what_a_worker_prints_is_no_answer_and_its_end_is_said(tmp_path, monkeypatch):
    (tmp_path / "chatty.py").write_text(CHATTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with timing.Worker("chatty") as worker:
        assert worker.said == {"said": "ready"}
        assert worker.seconds("work") >= 0 and worker.peak_mb > 0
        for _ in range(2):  # while it ends, and after it has
            with pytest.raises(ChildProcessError, match="chatty ended with 3"):
                worker.seconds("end")


def test_shares_count_the_steps_of_the_last_call_that_are_taken(monkeypatch):
    class Five:
        most = 2

        def timetable(self):
            return iter("abcde")

    taken = []
    monkeypatch.setattr(share.calls, "read_batches", lambda group, ticks: taken.append("read") or ticks)
    take = share.steps(Five(), lambda lanes, table: taken.append(len(table)) or (lanes, table), np.zeros(1))
    assert taken == ["read"] * 2
    take()
    assert taken[2:] == [2, 2, 1]


def test_rows_of_other_runs_stay_on_the_same_machine(tmp_path):
    path = tmp_path / "results" / "a.json"

    def keep(machine, *numbers):
        timing.keep(path, dict(machine=machine, rows=[dict(key=key, ms=ms) for key, ms in numbers]), ["key"])
        return [(row["key"], row["ms"]) for row in json.loads(path.read_text())["rows"]]

    assert keep("one", (2, 20), (1, 10)) == [(1, 10), (2, 20)]
    assert keep("one", (2, 21), (3, 30)) == [(1, 10), (2, 21), (3, 30)]
    assert keep("another", (1, 11)) == [(1, 11)]
