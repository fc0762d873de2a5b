"""What the benchmarks of whole runs stand on: lengths of names, exponents and phases."""

import json

import numpy as np
import pytest

from benchmarks import (
    calls,
    commands,
    data,
    inputs,
    model_configs,
    population,
    predict,
    scaling,
    share,
    startup,
)
from pini_jax.data.datasets import packs


@pytest.mark.parametrize("classes", [10, 300, 10_000])
def test_lengths_are_imagenets(classes):
    lengths, known = scaling.lengths(classes).suffix, inputs.LENGTHS[1000].suffix
    assert sum(lengths.values()) == classes
    assert lengths.keys() <= known.keys()
    means = [sum(n * count for n, count in x.items()) / sum(x.values()) for x in (lengths, known)]
    assert means[0] == pytest.approx(means[1], rel=0.05)


def test_exponents_are_those_of_power_laws():
    sizes = np.array([10, 30, 100])
    assert scaling.exponent(sizes, 5 * sizes**1.5) == pytest.approx(1.5)
    rows = [
        dict(axis="classes", size=n, seconds=dict(median=n / 10), temporary_mb=n**0.5, peak_mb=7)
        for n in (300, 3000)
    ]
    rows += [dict(axis="draws", size=k, seconds=dict(median=1 + k / 8)) for k in (1, 8)]
    found = scaling.fits(rows)
    assert (found["time"], found["temporary, tail"]) == (pytest.approx(1), pytest.approx(0.5))
    assert found["k=8 / k=1"] == pytest.approx(2 / 1.125)


@pytest.mark.parametrize("classes", [10, 37, 100])
def test_names_are_different_and_as_long_as_the_lengths(classes):
    lengths = inputs.LENGTHS[classes]
    names = population.class_names(lengths)
    assert len(set(names)) == classes
    assert sorted(len(name.split()) + 2 for name in names) == sorted(
        np.repeat([*lengths.suffix], [*lengths.suffix.values()])
    )


def test_features_are_of_a_tower_alone(monkeypatch):
    monkeypatch.setattr(data, "VIT_B_32", model_configs.clip((16, 1, 2, 32, 32, 16), (8, 1, 2), 12, "quick_gelu"))
    assert data.make_clip().embed_dim == 12


def test_a_step_is_measured_alone_and_in_lanes(monkeypatch):
    monkeypatch.setattr(population, "ROUND", 1e-6)
    row = population.measure(population.Case("tiny", "tiny_clip", 10, 1, {"seed": (1, 2)}, 1, 0, 0))
    assert row["members"] == 2 and min(row[way]["median"] for way in ("alone", "lanes")) > 0


def test_phases_add_up(tmp_path, monkeypatch):
    says = "\n".join([*startup.PHASES, json.dumps(dict.fromkeys(startup.WITHIN, 0.5))])
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    child.chmod(0o755)
    monkeypatch.setattr(startup.sys, "executable", str(child))
    found = startup.measure(tmp_path)
    assert found["total"] == pytest.approx(sum(found[phase] for phase in startup.PHASES))
    child.write_text("#!/bin/sh\necho imports\n")
    with pytest.raises(ChildProcessError, match="ended before 'shared'"):
        startup.measure(tmp_path)


def test_the_pack_of_noise_has_the_shapes_of_dtd(tmp_path):
    commands.write_pack(tmp_path / "pack.npz")
    pack = packs.load_pack(tmp_path / "pack.npz")
    data = pack.findings.dataset
    assert not pack.findings.problems and pack.text.shape == (47, 512)
    assert (len(data.train), len(data.test)) == (1880, 1692)


def test_a_population_is_set_against_a_command_for_each_member():
    row = dict(name="digits", members=15, each=dict(wall=150.0, cpu=120.0), one=dict(wall=50.0, cpu=30.0))
    assert commands.line(row) == ["15 x digits", "150", "50", "3.0", "120", "30", "4.0"]


def test_many_images_are_those_beyond_the_few(tmp_path, fitted_run):
    """Every picture of the archive is answered, by a process of which the cost is read."""
    predict.write_archive(tmp_path / "9.tar", 9)
    cost = predict.predict(fitted_run, tmp_path / "9.tar")
    assert len((tmp_path / "9.jsonl").read_text().splitlines()) == 9
    assert cost["peak_mb"] > 100 and min(cost["seconds"], cost["processor"]) > 0


def test_steps_in_one_call_are_those_of_a_call_each(monkeypatch):
    """Whole trainings, bit by bit."""
    monkeypatch.setitem(share.CONFIGS, "features", share.CONFIGS["features"] + ",shots=1")
    row = calls.measure("features", 1, rounds=1)
    assert row["same"] and (row["size"], row["name"]) == (32, "features")
    assert min(row[way][clock] for way in ("one", "several") for clock in ("wall", "cpu")) > 0
    row |= dict(one=dict(wall=2.0, cpu=4.0), several=dict(wall=1.0, cpu=3.0))
    assert calls.line(row) == ["1 x features", "32", "2.00 (4.00)", "1.00 (3.00)", "50% (25%)", "yes"]
