"""Plans: the same runs as a population's, cut into units that share a compiled step."""

import json
from pathlib import Path

import pytest
from stores import Memory

from pini_jax import config as configs
from pini_jax.core import config_file
from pini_jax.core.errors import InputError
from pini_jax.runs import plan as plans
from pini_jax.runs import population

SEVERAL = {
    "shots": (1, 4),
    "optim.lr": (0.002, 1),
    "optim.name": ("sgd", "adam"),
    "num_samples": (1, 2),
    "seed": (1, 2, 3),
}
POPULATIONS = {
    "product": SEVERAL,
    "named": {
        "side": {"wide": {"num_samples": 2, "optim.lr": 0.1}, "none": {"method": "zero_shot"}},
        "seed": (1, 2),
    },
    "list": [{"shots": 1}, {"shots": 4, "optim.epochs": 3}, {"noise": {"image_features": {"generator": "mlp"}}}],
    "none": None,
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_plan_has_the_runs_of_the_population(name):
    settings = {"population": POPULATIONS[name]}
    members = {member.name or "run": member.config for member in population.members(settings)}
    plan = plans.make_plan(settings)
    assert {name: c for i in range(len(plan.units)) for name, c in plan.configs(i).items()} == members


def test_a_unit_is_a_part_of_a_group_of_a_population():
    settings = {"population": SEVERAL}
    plan = plans.make_plan(settings, together=4)
    folders = {Path(member.name): member.config for member in population.members(settings)}
    groups = [{path.name for path in group} for group in population.groups(folders)]
    units = [{run.name for run in unit} for unit in plan.units]
    assert len(groups) == 4 and len(units) == 12 and all(len(unit) <= 4 for unit in units)
    assert all(sum(unit <= group for group in groups) == 1 for unit in units)
    assert [run.unit for run in plan.runs] == sorted(run.unit for run in plan.runs)


def test_shots_share_a_step_unless_the_method_keeps_its_images():
    of = {"shots": (1, 2), "seed": (1, 2)}
    assert len(plans.make_plan({"population": of}).units) == 1
    keeps = {"method": "tip_adapter", "noise": {}, "population": of}
    assert len(plans.make_plan(keeps).units) == 2


@pytest.mark.parametrize(
    ("size", "most", "parts"), [(15, 16, [15]), (17, 16, [8, 9]), (5, 1, [1] * 5), (0, 4, [])]
)
def test_parts_are_of_one_size(size, most, parts):
    cut = list(plans._cut(range(size), most))
    assert [len(part) for part in cut] == parts and [i for part in cut for i in part] == list(range(size))


def test_costly_units_come_first():
    plan = plans.make_plan({"population": {"optim.epochs": (1, 30, 2), "num_samples": (1, 4)}}, together=1)
    costs = [sum(run.cost for run in unit) for unit in plan.units]
    assert costs == sorted(costs, reverse=True) and costs[0] == 30 * 16 * 10 * 4


@pytest.mark.parametrize(("shots", "batch"), [(1, 10), (4, 32)])
def test_steps_of_a_shot_cost_a_batch_each(shots, batch):
    settings = {"method": "2sfs", "noise": {}, "shots": shots, "optim": {"epochs": 0}}
    (alone,) = plans.make_plan(settings | {"options": {"steps_per_shot": 7}}).runs
    assert alone.cost == 7 * shots * batch


def test_what_is_written_is_read():
    store = Memory()
    plan = plans.make_plan({"population": POPULATIONS["named"]})
    plans.write_plan(plan, store)
    plans.write_plan(plan, store)
    read = plans.read_plan(store)
    assert list(plans.lines(read)) == list(plans.lines(plan))
    assert [read.configs(i) for i in range(len(read.units))] == [plan.configs(i) for i in range(len(plan.units))]
    values = json.loads(store.read("population.json"))
    assert values["side_wide-seed_2"] == {"side": "wide", "seed": 2} and len(values) == len(plan.runs)


def test_another_plan_is_refused():
    store = Memory()
    plans.write_plan(plans.make_plan({"population": {"seed": (1, 2)}}), store)
    with pytest.raises(InputError, match="another sweep's plan.jsonl"):
        plans.write_plan(plans.make_plan({"population": {"seed": (1, 3)}}), store)


@pytest.mark.parametrize(
    "damage", [lambda x: b"", lambda x: x[:-20], lambda x: b"\xff" + x, lambda x: b"[]\n" + x]
)
def test_a_damaged_plan_is_named(damage):
    store = Memory()
    plans.write_plan(plans.make_plan({"population": {"seed": (1, 2)}}), store)
    store.write(plans.FILE, damage(store.read(plans.FILE)))
    with pytest.raises(InputError, match="plan.jsonl is damaged"):
        plans.read_plan(store)


def test_no_plan_is_told():
    with pytest.raises(InputError, match="pini sweep plan makes it"):
        plans.read_plan(Memory())


WRONG = {
    "lr=-1 must be positive; shots=0 must be at least 1": {"optim.lr": (-1, 0.1), "shots": (1, 0)},
    "'abc' must be int": {"seed": (1, "abc")},
    "no key 'sots'": [{"shots": 1}, {"sots": 1}],
    "must be {key: value": [{}],
    "several members have the same name": [{"shots": 1}, {"shots": 1}],
    "did you mean 'digits'": {"dataset": ("digits", "digts")},
    "epochs=0 must be at least 1: pini has no steps_per_shot": {"optim.epochs": (0, 1)},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_told(message):
    with pytest.raises(InputError, match=message):
        plans.make_plan({"population": WRONG[message]})


@pytest.mark.parametrize("key", configs.INDEPENDENT)
def test_independent_settings_are_checked_as_all_are(key):
    """Right and wrong values alike, of whatever type."""
    base, _ = population.split({})
    for value in (0, 1, 2, -1, 0.5, 1.5, "x", None, True, 2**40, float("nan"), float("inf"), [1]):
        try:
            wanted = configs.resolve(population.changed(base, {key: value}))
        except InputError:
            with pytest.raises(InputError):
                configs.with_numbers(configs.Config(), {key: value})
        else:
            assert repr(configs.with_numbers(configs.Config(), {key: value})) == repr(wanted)


def test_the_papers_protocol_is_one_config():
    plan = plans.make_plan(config_file.load_config("paper_sweep:data_dir=/data"))
    assert len(plan.runs) == 165 and [len(unit) for unit in plan.units] == [15] * 11
    assert all(len({run.values["dataset"] for run in unit}) == 1 for unit in plan.units)
    assert plan.configs(0)["dataset_imagenet-shots_1-seed_1"].data_dir == "/data"


def test_a_function_of_a_config_file_yields_runs(tmp_path):
    file = tmp_path / "mine.py"
    program = (
        "from pini_jax.config import default as get_config\ndef sweep():\n    yield from ({'seed': i} for i in "
    )
    file.write_text(program + "range(3))\n")
    plan = plans.make_plan(config_file.load_config(str(file)))
    assert [run.name for run in plan.runs] == ["seed_0", "seed_1", "seed_2"]


def test_many_runs_are_few_whole_checks(monkeypatch):
    """A hundred thousand runs are planned in seconds because only what differs in kind is resolved."""
    calls, resolve = [], configs.resolve
    monkeypatch.setattr(configs, "resolve", lambda settings: calls.append(1) or resolve(settings))
    several = {"num_samples": (1, 2), "shots": (1, 2, 4), "seed": tuple(range(100)), "optim.lr": (0.1, 0.2)}
    assert len(plans.make_plan({"population": several}).runs) == 1200 and len(calls) == 3


def test_long_names_are_cut():
    names = {population.member_name({"template": "x" * 300 + end}) for end in "ab"}
    assert len(names) == 2 and all(len(name) <= population.LETTERS for name in names)
