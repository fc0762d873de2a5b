"""pini push: a run goes to a hub on this machine, and comes back."""

import local_hub
import numpy as np
import pytest
from absl import flags
from huggingface_hub import ModelCard, constants

from pini_jax import load_classifier, push
from pini_jax.core.errors import InputError, UsageError
from pini_jax.core.hub_client import HubName
from pini_jax.data.datasets import digits
from pini_jax.runs import injector
from pini_jax.use import card

NAME = HubName("owner/letters")
PICTURES = [record.source for record in digits.load_digits().test[:3]]
RESULT = {
    "num_train": 6,
    "num_test": 9,
    "zero_shot": {"accuracy": 0.25, "macro_f1": 0.2, "nll": 1.5, "ece": 0.125},
    "test": {"mean": {"accuracy": 0.75, "macro_f1": 0.7, "nll": 0.5, "ece": 0.0625}},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with nothing in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = local_hub.LocalHub({})
    with server.serving(monkeypatch):
        yield server


def command(*words):
    values = flags.FlagValues()
    push.define_flags(values)
    _, *rest = values(["pini push", *words])
    push.main(values, rest)


def test_what_was_pushed_predicts_elsewhere(hub, fitted_run, capsys):
    command(f"--workdir={fitted_run}", NAME.id)
    repository = hub.repositories[NAME.id]
    assert capsys.readouterr().out == f"{hub.address}/{NAME.id}/commit/{repository.refs['main']}\n"
    assert sorted(repository.files) == ["README.md", "injector.safetensors"] and not repository.private
    there, here = load_classifier(f"hub:{NAME.id}"), load_classifier(fitted_run)
    np.testing.assert_array_equal(there(PICTURES), here(PICTURES))
    estimator = pytest.importorskip("pini_jax.use.estimator").Classifier.load(f"hub:{NAME.id}")
    assert estimator.classes_.tolist() == [*here.class_names]
    hub.refusal = 500, "Unexpected"  # what is in the cache is enough
    assert load_classifier(f"hub:{NAME.id}@{repository.refs['main']}").fingerprint == here.fingerprint


def test_a_card_that_is_there_stays(hub, fitted_run, capsys):
    command(f"--workdir={fitted_run}", NAME.id, "--private")
    repository = hub.repositories[NAME.id]
    assert repository.private
    repository.files = {"README.md": b"mine, under the MIT licence", "injector.safetensors": b"old"}
    command(f"--workdir={fitted_run}", NAME.id)
    assert repository.files["README.md"] == b"mine, under the MIT licence"
    assert repository.files["injector.safetensors"] == fitted_run.read_bytes()
    assert capsys.readouterr().out.endswith("its README.md is left as it was\n")


@pytest.mark.parametrize("clip", ["tiny_clip", f"openai/some-clip@{'a' * 40}", "/home/me/clips/mine", ""])
def test_the_card_says_what_it_is(fitted_run, clip):
    exported = injector.load_run(fitted_run)
    config = exported.config.__class__(clip=clip, dataset="folder:/home/me/photos", shots=2, seed=3)
    exported = exported._replace(config=config, class_names=("cat", "a | b\n# c"))
    words = ["python", "/home/me/bin/pini", "train", "--config.template=a {}"]
    text = card.make_card(NAME, exported, RESULT, words)
    metadata = ModelCard(text).data
    base = "openai/some-clip" if "@" in clip else None
    assert metadata.base_model == base and metadata.license is None and metadata.library_name == "pini_jax"
    assert "2 classes of images apart: cat, a \\| b # c" in text and "/home/me" not in text
    assert "| data | folder:photos |" in text and "| shots | 2 |" in text and "| seed | 3 |" in text
    assert "| mean noise | 0.7500 | 0.7000 | 0.5000 | 0.0625 |" in text
    assert "pini train '--config.template=a {}'" in text
    assert f"--workdir=hub:{NAME.id}{' --clip=CLIP' if clip.startswith('/') else ''} photo.jpg" in text


@pytest.mark.parametrize("names", [["letters"], ["owner/letters@main"], ["owner/a", "owner/b"], ["/owner/a"]])
def test_what_is_no_repository(names, fitted_run):
    with pytest.raises(UsageError, match="name one repository of the hub, as owner/name"):
        command(f"--workdir={fitted_run}", *names)


def test_nothing_is_asked_of_the_hub_for_a_run_that_has_not_ended(tmp_path):
    with pytest.raises(InputError, match="there is no injector"):
        command(f"--workdir={tmp_path}", NAME.id)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "RepoNotFound"), "the hub shows none of this name; correct it, or run `hf auth login`"),
        ((403, "Forbidden"), "could not be .* \\(.*403"),
        ((500, "Unexpected"), "could not be .* \\(.*500"),
    ],
)
def test_a_refusal_is_one_line(hub, fitted_run, refusal, words):
    hub.refusal = refusal
    for work in (
        lambda: command(f"--workdir={fitted_run}", NAME.id),
        lambda: push.hub_client.push(NAME, {"a": b"b"}, "m", private=False),
        lambda: load_classifier(f"hub:{NAME.id}"),
    ):
        with pytest.raises(InputError, match=words) as error:
            work()
        assert len(str(error.value).splitlines()) == 1 and str(error.value).startswith(NAME.id)


@pytest.mark.parametrize("name", ["hub:letters", "hub:", "hub:owner/a@", "hub:/owner/a"])
def test_what_names_no_pushed_run(name):
    with pytest.raises(InputError, match="name a repository of the hub as hub:owner/name"):
        load_classifier(name)
