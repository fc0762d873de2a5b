"""Methods on equal terms: who takes part, and what chooses."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
from test_packs import arrays

from pini_jax import config
from pini_jax.configs import ablation, best, digits, features
from pini_jax.core import paths
from pini_jax.core.errors import InputError, UsageError
from pini_jax.launch import compare
from pini_jax.methods import registry
from pini_jax.noise.sites import SITES
from pini_jax.runs import population
from pini_jax.runs.folder import write_result


def found(accuracy, nll, test):
    return {"val": {"mean": {"accuracy": accuracy, "nll": nll}}, "test": {"mean": {"accuracy": test}}}


def test_validation_chooses_and_test_does_not():
    runs = {
        Path("good at testing"): found(0.5, 1.0, test=0.9),
        Path("tied"): found(0.7, 2.0, test=0.8),
        Path("chosen"): found(0.7, 1.5, test=0.1),
    }
    assert compare.chosen(runs) == Path("chosen")
    with pytest.raises(InputError, match="no validation images"):
        compare.chosen({Path("a"): {"val": None}})


@pytest.fixture
def pack(tmp_path):
    np.savez(tmp_path / "pack.npz", **arrays())
    return features.get_config(f"path={tmp_path / 'pack.npz'},log_every=100,num_draws=2")


def test_those_take_part_that_the_data_allow(pack):
    names = set(compare.contenders(pack))
    assert (
        names
        & {"coop", "clip_lora", "prolip", "2sfs", "clip_svd", "pixels: conv", "prompt_tokens: table", "released"}
        == set()
    )
    assert {
        "tip_adapter",
        "lp++",
        "proker",
        "linear_adapter",
        "text_features: table",
        "image_features: cross_attention",
    } <= names
    towers = compare.contenders(digits.get_config())
    assert set(towers) >= names | {"coop", "clip_lora", "pixels: conv", "released", "zero_shot: imagenet_80"}
    assert set(registry.METHODS) - {"pini", "zero_shot"} <= set(towers)
    for contender in towers.values():
        assert np.prod([len(values) for values in contender.search.values()], initial=1) <= compare.BUDGET


def test_the_recipe_comes_with_its_own_views_and_rivals_without():
    settings = config.default()
    of_images = compare.contenders(settings)
    own = of_images["empirical_bayes"].settings
    assert own.to_dict() == best.get_config().to_dict()
    assert (own.views, of_images["tip_adapter"].settings.views) == (8, settings.views) == (8, 0)


def test_an_unknown_contender_is_told(pack):
    known = compare.contenders(pack)
    assert list(compare.taken(["gda"], known)) == ["gda"] and compare.taken([], known) == known
    with pytest.raises(UsageError, match="no contender 'gdda'; did you mean 'gda'"):
        compare.taken(["gdda"], known)


def test_the_config_of_another_method_leaves_all_contenders_as_they_are(pack, tmp_path):
    from_best = compare.contenders(best.get_config(f"path={tmp_path / 'pack.npz'},log_every=100,num_draws=2"))
    plain = compare.contenders(pack)
    assert from_best.keys() == plain.keys() and "empirical_bayes" in plain
    for name, contender in plain.items():
        ours, theirs = (config.resolve(c.settings) for c in (from_best[name], contender))
        assert dataclasses.replace(ours, template=theirs.template) == theirs


def test_every_seed_has_its_own_choice(pack, tmp_path):
    contender = compare.contenders(pack)["tip_adapter"]._replace(search={"options.beta": (1.0, 3.0, 12.0)})
    folders = compare.train(contender, 2, (1, 2), tmp_path / "tip")
    assert [json.loads((folder / "config.json").read_text())["seed"] for folder in folders] == [1, 2]
    for folder in folders:
        seed = json.loads((folder / "config.json").read_text())["seed"]
        tried = [json.loads(file.read_text()) for file in (tmp_path / "tip").glob(f"*seed_{seed}/result.json")]
        assert len(tried) == 3
        chosen = json.loads((folder / "result.json").read_text())
        assert chosen["val"]["mean"]["accuracy"] == max(x["val"]["mean"]["accuracy"] for x in tried)


def started(pack, workdir, methods, seeds=(1,)):
    given = types.SimpleNamespace(config=pack, methods=methods, search=True)
    return compare.compare(given, workdir, (2,), seeds)


def test_what_an_earlier_call_has_chosen_is_listed_until_it_is_chosen_again(pack, tmp_path, monkeypatch):
    pack.optim.epochs = 1
    started(pack, tmp_path, ["gda", "tip_adapter"], (1, 2))
    listed = json.loads((tmp_path / "comparison.json").read_text())
    meanwhile = []

    def watched(workdir_of_runs, *_):
        meanwhile.append(json.loads((tmp_path / "comparison.json").read_text()))
        raise InputError("it has diverged")

    with monkeypatch.context() as patched:
        patched.setattr(compare, "train", watched)
        assert "gda" in started(pack, tmp_path, ["gda", "tip_adapter"], (1, 2))
    assert meanwhile == [listed, listed]

    other = next(
        path
        for path in (tmp_path / "tip_adapter" / "shots_2").glob("*seed_1")
        if str(path.relative_to(tmp_path)) not in listed
    )
    monkeypatch.setattr(compare, "train", lambda *_: [other])
    started(pack, tmp_path, ["tip_adapter"])
    now = json.loads((tmp_path / "comparison.json").read_text())
    assert set(now) - set(listed) == {str(other.relative_to(tmp_path))} and len(now) == len(listed) == 4


def test_a_run_that_is_gone_is_not_listed(pack, tmp_path):
    paths.write_json(tmp_path / "comparison.json", {"gda/shots_2/seed_1": {"contender": "gda"}})
    assert compare.chosen_before(tmp_path) == {} == compare.chosen_before(tmp_path / "nothing")


def test_what_is_below_zero_shot_clip_is_warned_of(tmp_path, caplog):
    for name, accuracy in (("good", 0.75), ("bad", 0.25)):
        (tmp_path / name).mkdir()
        write_result(tmp_path / name, found(accuracy, 1.0, test=1.0) | {"val_zero_shot": {"accuracy": 0.5}})
    compare.warn_of_worse("gda with 4 shots", [tmp_path / "good", tmp_path / "bad"])
    (message,) = caplog.messages
    assert message.startswith("gda with 4 shots: on validation images it is below zero-shot CLIP (25.0%, 50.0%)")
    assert message.endswith("bad")


def test_more_than_the_budget_is_refused(pack, tmp_path):
    contender = compare.Contender(pack, {"optim.lr": tuple(range(1, 10))})
    with pytest.raises(ValueError, match="budget"):
        compare.train(contender, 1, (1,), tmp_path)


def test_what_is_not_searched_keeps_its_own_settings(pack, tmp_path):
    known = compare.contenders(pack)
    own = compare.untuned(known)
    assert [dict(x.search) for x in own.values()] == [{}] * len(known)
    (folder,) = compare.train(own["tip_adapter"], 2, (1,), tmp_path / "tip")
    assert json.loads((folder / "config.json").read_text())["options"] == {"alpha": 1.0, "beta": 5.5}


def test_the_ablation_covers_every_site_and_generator():
    settings = ablation.get_config("shots=4,optim.epochs=1")
    members = population.members(settings)
    by_name = {member.values["variant"]: member.config for member in members}
    assert len({member.name for member in members}) == len(members) == 3 * len(by_name)
    assert {f"{site}: {generator}" for site in SITES for generator in SITES[site].generators} <= by_name.keys()
    assert by_name["pixels: conv, mean_only"].noise["pixels"]["control"] == "mean_only"
    assert len({x.hash for x in by_name.values()}) == len(by_name)
    assert by_name["none"].method == "zero_shot"
    assert set(by_name["pixels: conv"].noise) == {"pixels"}
    assert by_name["k = 4, multi_sample"].objective.bound == "multi_sample"
    assert all(site["control"] == "mean_only" for site in by_name["mean_only"].noise.values())
    assert {c.optim.epochs for c in by_name.values()} == {1}


def test_a_named_value_replaces_what_was_there(pack, tmp_path):
    """And the others keep theirs; members are listed beside their folders."""
    variants = {"mlp": {"noise": {"image_features": {"generator": "mlp"}}}, "rival": {"method": "gda"}}
    settings = pack.to_dict() | {"shots": 2, "population": {"variant": variants, "seed": (1,)}}
    settings["optim"]["epochs"] = 1
    members = population.members(settings)
    assert [dict(m.config.noise).get("image_features", {}).get("generator") for m in members] == ["mlp", None]
    results = population.train_population(members, tmp_path / "runs")
    assert [result["method"] for result in results] == ["pini", "gda"]
    listed = json.loads((tmp_path / "runs" / "population.json").read_text())
    assert listed == {m.name: dict(m.values) for m in members}
    with pytest.raises(InputError, match="no key 'nosie'"):
        population.members(pack.to_dict() | {"population": {"nosie": (1, 2)}})


def test_no_contender_changes_the_config_of_the_others(pack):
    """Settings lie within settings: a copy of the outermost alone would be changed for all."""
    before = pack.to_dict()
    known = compare.contenders(pack)
    assert pack.to_dict() == before
    assert known["text_features: table"].settings.optim.to_dict() == before["optim"]
    assert known["structured"].settings.objective.kl_weight == 16.0 != before["objective"]["kl_weight"]
