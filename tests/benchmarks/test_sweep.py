"""The model of a sweep: its schedule and its counts by hand, its costs, and the whole command in small."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import costs, flops, inputs, parts, sweep
from benchmarks.costs import Costs, Facts, Point, Unit
from pini_jax.config import Config, resolve
from pini_jax.data.datasets import coop
from pini_jax.train import schedule

FACTS = Facts(classes=10, tokens=50, test=100)
NOTHING = Costs(
    room=costs.ANY,
    overlaps=False,
    **dict.fromkeys(("unit", "compile", "run", "save", "look", "train_view", "test_view", "tower"), 0.0),
    **dict.fromkeys(("step", "text", "predict", "answer"), [Point(1, 0.0)]),
)


def costing(**more):
    return dataclasses.replace(NOTHING, **more)


def unit(dataset, steps, test=0):
    return Unit(
        dataset, Facts(1, 1, test), runs=1, steps=steps, saves=0, trained=0, validated=0, looked=0, draws=0
    )


def test_a_schedule_by_hand():
    """Two workers, a second for a step, two for what a dataset is met with."""
    units = [unit("a", 10), unit("b", 6), unit("b", 5), unit("a", 1), unit("a", 4)]
    given = costing(step=[Point(1, 1.0)], compile=2.0)
    found = sweep.simulate(units, 2, given)
    # The first: a 0-12, a 12-13, a 13-17. The second: b 0-8, b 8-13.
    assert [first for _, first in found.tasks] == [True, True, False, False, False]
    assert found.seconds == 17
    assert sweep.simulate(units, 1, given).seconds == 26 + 2 + 2
    assert sweep.simulate(units, 64, given).seconds == 12  # the longest


def test_what_a_unit_goes_to_by_hand():
    one = Unit("a", FACTS, runs=2, steps=7, saves=3, trained=11, validated=5, looked=1, draws=68)
    given = Costs(costs.ANY, False, 1.0, 2.0, 4.0, 8.0, 0.5, 3.0, 5.0, 6.0, *([Point(50, 2.0)] for _ in range(4)))
    found = costs.parts(one, given, first=True)
    assert found == {
        "steps": 7 * 2.0,
        "training images": 11 * (3 + 6) + 0.5,
        "other images": (5 + 100) * (5 + 6 + 0.5),
        "texts": (68 + 1) * 2.0,
        "predictions": (2 * 100 + 5) * 2.0 * 10 / 50,
        "measures": (2 * 100 + 5) * 2.0 * 10 / 50,
        "checkpoints": 3 * 8.0,
        "opening and closing": 1 + 2 * 4 + 2.0,
    }
    again = costs.parts(one, given, first=False)
    assert again["other images"] == 5 * 11.5 and again["opening and closing"] == 9
    assert dataclasses.replace(given, overlaps=True).encoded(3.0) == 6


def test_between_points_is_a_line_and_one_alone_is_proportional():
    points = [Point(10, 1.0), Point(20, 3.0), Point(40, 4.0)]
    assert [costs.at(points, size) for size in (10, 15, 30, 60)] == pytest.approx([1, 2, 3.5, 5])
    assert costs.at(points[1:2], 40) == 6


@pytest.mark.parametrize("room", [40, 120, costs.ANY])
def test_steps_are_those_of_the_timetable(room):
    configs = [Config(shots=shots, seed=seed) for shots in (1, 4, 16) for seed in (1, 2)]
    found = costs.describe(configs, FACTS, room)
    lengths = [100 * n for n in (1, 1, 1, 1, 5, 5)]  # batches of 10, 32 and 32 images
    width = max(1, min(3, room // FACTS.tokens))
    ticks = list(schedule.timetable(lengths, [0] * 6, width))
    assert found.steps == width * len(ticks)
    assert found.saves == sum(lengths) / 100
    assert found.trained == 100 * 2 * (10 + 32 + 5 * 32) and found.looked == 2 * (10 + 40 + 160)
    assert found.validated == 2 * 10 * (1 + 4 + 4) and found.draws == 6 * (1 + 1 + 32)
    cached = costs.describe([dataclasses.replace(config, views=8) for config in configs], FACTS, room)
    assert cached.trained == 8 * found.looked and cached.looked == 0


def test_steps_are_those_of_shots_where_a_method_counts_them():
    settings = {"method": "2sfs", "noise": {}, "options": {"steps_per_shot": 7}, "optim": {"epochs": 0}}
    alone = costs.describe([resolve(settings | {"shots": 4})], FACTS, costs.ANY)
    assert alone.steps == 28 and alone.trained == 28 * 32


def test_the_papers_sweep_is_165_runs_of_datasets_that_are_known():
    alone = sweep.paper_units(views=0, together=1, room=costs.ANY)
    assert len(alone) == 165 == sum(one.runs for one in sweep.paper_units(0, 15, costs.ANY))
    assert {one.dataset for one in alone} == sweep.DATASETS.keys()
    assert max(one.steps for one in alone) == 50_000  # of ImageNet's 16 shots
    for name, dataset in sweep.DATASETS.items():
        assert sum(dataset.lengths.suffix.values()) == coop.LAYOUTS[name].classes


def test_a_step_of_the_papers_code_on_imagenet_takes_12_tflop():
    assert flops.released_step_flops(sweep.CLIP, 1000, 0) == pytest.approx(12e12, rel=0.05)
    ratio = sweep.released(sweep.released_on_card()) / sum(
        hours(one) for one in sweep.paper_units(0, 1, costs.ANY)
    )
    assert 10 < ratio < 40


def hours(one):
    given = costs.on_card(NOTHING, costs.H200, sweep.CLIP)
    return costs.parts(one, given, first=False)["steps"] / 3600


def test_towers_come_from_a_run_of_the_accelerators_command():
    rows = [
        dict(phase="machine", device="a card"),
        dict(phase="text", tower="B/16", classes=10, ms=4.0),
        dict(phase="text", tower="B/16", classes=1000, ms=20.0),
        dict(phase="text", tower="L/14", classes=1000, ms=90.0),
        dict(phase="images", tower="B/16", per_second=1000.0),
        dict(phase="images", tower="L/14-336", per_second=100.0),
        dict(phase="lanes", classes=10, members=1, ms=4.0),
        dict(phase="lanes", classes=10, members=5, ms=1.0),
        dict(phase="lanes", left_out="RuntimeError"),
        dict(phase="machine", device="the same again"),
        dict(phase="images", tower="B/16", per_second=2000.0),
    ]
    found = costs.from_accelerator(costing(run=3.0), rows)
    few, many = (costs.tokens_of(costs.packed(inputs.LENGTHS[n])) for n in (10, 1000))
    assert found.step == [(few, 1e-3), (many, 20e-3)] and found.text == [(few, 0.5e-3), (many, 10e-3)]
    assert found.tower == 0.5e-3 and found.overlaps and found.run == 3


def test_costs_survive_json():
    pair = np.array([3.0, 2.0])
    points = dict.fromkeys(("step", "text", "predict", "answer"), [Point(5, pair)])
    made = parts.of_clock(dataclasses.asdict(NOTHING) | points | dict(save=pair), 1)
    assert made.save == 2 and made.step == [Point(5, 2)] and made.run == 0
    assert costs.from_dict(json.loads(json.dumps(dataclasses.asdict(made)))) == made


def test_the_command_predicts_from_a_file_of_costs(tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.json"
    given = costing(step=[Point(1000, 1.0)], unit=1.0, test_view=0.01)
    file.write_text(json.dumps(dict.fromkeys(parts.CLOCKS, dataclasses.asdict(given))))
    monkeypatch.setattr(sweep, "RESULT", tmp_path / "sweep.json")
    sweep.main([f"--costs={file}", "--nocheck", "--save"])
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert len(found["rows"]) == 3 * len(sweep.VIEWS) * len(sweep.TOGETHER)
    for row in found["rows"]:
        assert sum(row["parts"].values()) == pytest.approx(1)
        assert row["hours"]["1"] >= row["hours"]["8"] >= row["hours"]["64"] > 0
    assert "H200, computed" in capsys.readouterr().out


@pytest.mark.long
def test_a_small_sweep_is_predicted_and_trained():
    """On a busy machine times may be off: what is held is that all of it is measured."""
    found = sweep.check(sweep.Small({"seed": (1, 2)}, together=1, workers=2))
    for kind in ("idle", "predicted", "taken"):
        assert all(x > 0 for x in found[kind].values())
    assert found["taken"]["cpu"] > found["idle"]["cpu"]
