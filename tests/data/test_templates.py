"""Templates: those of the papers to the letter, and names that do not exist."""

import hashlib

import pytest

from pini_jax.core.errors import InputError
from pini_jax.data import templates
from pini_jax.data.datasets import coop

X = "x x x x x x x x x x x x x x x x "
# Texts of the released code and of CoOp, with the name of a class in its place.
PROMPTS = {
    "oxford_pets": ("a type of pet, a photo of a beagle.", "a photo of a beagle, a type of pet."),
    "oxford_flowers": ("a type of flower, a photo of a rose.", "a photo of a rose, a type of flower."),
    "fgvc_aircraft": ("a type of aircraft, a photo of a 707-320.", "a photo of a 707-320, a type of aircraft."),
    "dtd": ("texture banded.", "banded texture."),
    "eurosat": ("a centered satellite photo of River.", "a centered satellite photo of River."),
    "stanford_cars": ("a photo of a 2012 Acura RL Sedan.", "a photo of a 2012 Acura RL Sedan."),
    "food101": ("a type of food, a photo of pizza.", "a photo of pizza, a type of food."),
    "sun397": ("a photo of a abbey.", "a photo of a abbey."),
    "caltech101": ("a photo of a face.", "a photo of a face."),
    "ucf101": ("a photo of a person doing Archery.", "a photo of a person doing Archery."),
    **dict.fromkeys(
        ["imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r", "digits"],
        ("a photo of a tench.", "a photo of a tench."),
    ),
}
NAMES = (
    "beagle",
    "rose",
    "707-320",
    "banded",
    "River",
    "2012 Acura RL Sedan",
    "pizza",
    "abbey",
    "face",
    "Archery",
)


def test_every_dataset_is_covered():
    assert set(PROMPTS) == {*coop.LAYOUTS, "digits"}
    assert {*templates.RELEASED, *templates.COOP} <= set(coop.LAYOUTS)


@pytest.mark.parametrize("dataset", PROMPTS)
def test_templates_of_the_papers(dataset):
    released, ordinary = PROMPTS[dataset]
    name = next((n for n in NAMES if n in ordinary), "tench")
    ((ours,), (theirs,)) = (templates.find_templates(which, dataset) for which in ("released", "coop"))
    assert ours.replace("{}", name) == X + released
    assert theirs.replace("{}", name) == ordinary


@pytest.mark.parametrize(
    ("name", "num", "first", "last", "sha256"),
    [
        (
            "imagenet_7",
            7,
            "itap of a {}.",
            "a photo of the small {}.",
            "6ef3883987d224b7949da69fe0b615af152e1560eaac4c5c38555e50c882d415",
        ),
        (
            "imagenet_80",
            80,
            "a bad photo of a {}.",
            "a tattoo of the {}.",
            "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af",
        ),
    ],
)
def test_ensembles_are_openais(name, num, first, last, sha256):
    """The hash is of the templates in the notebook's order, a line each."""
    ensemble = templates.find_templates(name, "imagenet")
    assert (len(set(ensemble)), ensemble[0], ensemble[-1]) == (num, first, last)
    assert all(template.count("{}") == 1 for template in ensemble)
    assert hashlib.sha256("\n".join(ensemble).encode()).hexdigest() == sha256


def test_the_seven_are_among_the_eighty():
    assert set(templates.find_templates("imagenet_7", "dtd")) < set(templates.find_templates("imagenet_80", "dtd"))


@pytest.mark.parametrize("template", ["{}", "a photo of the digit {}.", "coop {}"])
def test_text_with_a_place_for_the_name_is_a_template(template):
    assert templates.find_templates(template, "digits") == (template,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet_8", "'imagenet_8' is no text with {}.*did you mean 'imagenet_80'"),
        ("a photo of a", "'a photo of a' is no text.*known: released, coop, imagenet_7, imagenet_80"),
        ("", "known: released"),
        ("a {} of a {}", "exactly once"),
    ],
)
def test_what_is_no_template_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        templates.find_templates(name, "digits")
