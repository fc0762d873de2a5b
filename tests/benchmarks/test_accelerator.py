"""The command for accelerators: every phase gives its rows on a CPU, in small, and what fails costs no other."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import flops, inputs
from benchmarks.accelerator import switches, text
from benchmarks.accelerator.__main__ import PHASES, main
from pini_jax.clip import prompts


def rows_of(folder, *phases):
    main([f"--output={folder}", "--phases", *phases])
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


BARE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop().split(",")))  # as if none of them were installed
from benchmarks.accelerator.__main__ import main
main(sys.argv[1:])
"""
OURS = "arro3,filelock,jaxtyping,ml_collections,PIL,safetensors,tabulate,tokenizers,tqdm"


@pytest.mark.long
def test_every_phase_gives_numbers_without_packages_of_ours(tmp_path):
    """In a process that finds jax, flax, optax, numpy and what these need."""
    subprocess.run([sys.executable, "-c", BARE, f"--output={tmp_path}", OURS], check=True, capture_output=True)
    machine, *rows = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert machine["versions"]["jax"] and machine["without"] == ["jaxtyping", "tokenizers"]
    assert list(dict.fromkeys(row["phase"] for row in rows)) == list(PHASES)
    left_out = {row.get("switch", row["phase"]): row["left_out"] for row in rows if "left_out" in row}
    assert left_out.keys() == {"peers", "training", "flash"}
    assert all("missing" in left_out[phase] for phase in ("peers", "training"))
    assert all(row["ms"] > 0 for row in rows if "ms" in row)
    (step,) = (row for row in rows if row["phase"] == "text")
    assert np.isfinite(step["loss"]) and step["loss"] > 0


@pytest.mark.long
def test_a_whole_training_says_where_its_seconds_go(tmp_path):
    _, row = rows_of(tmp_path, "training")
    assert row["steps"] == 1 and row["total"] > sum(row["seconds"].values()) / 2
    assert row["seconds"].keys() == {"setup", "compile", "train", "evaluate"}


def test_a_phase_that_fails_costs_no_other(tmp_path, monkeypatch):
    def missing(scale):
        yield {"what": "first"}
        raise ModuleNotFoundError("No module named 'orbax'", name="orbax")

    monkeypatch.setattr(text, "measure", missing)
    _, *rows = rows_of(tmp_path, "text", "peak")
    assert rows[0]["what"] == "first"
    assert rows[1]["left_out"] == "orbax is missing"
    assert {row["phase"] for row in rows[2:]} == {"peak"}


@pytest.mark.long
def test_many_steps_in_a_call_are_steps_that_follow_each_other():
    step = text.text_step("tiny", 10)
    phi, *fixed, key = step.arguments
    alone = switches.many(step.call, 1)
    first, _ = switches.many(step.call, 2)(phi, *fixed, key)
    once, _ = alone(phi, *fixed, key)
    assert np.abs(first["prompt_tokens"]["mean"] - once["prompt_tokens"]["mean"]).max() > 0


@pytest.mark.parametrize("classes", [10, 37])
def test_a_step_needs_twice_the_way_there_and_attention_once_more(classes):
    packed = prompts.pack(inputs.make_prompts(inputs.LENGTHS[classes], 49408))
    forwards = flops.prompts_flops(inputs.VIT_B_16, packed)
    assert 2 * forwards < flops.step_flops(inputs.VIT_B_16, packed) < 2.2 * forwards
