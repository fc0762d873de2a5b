"""What the recipe was chosen by: training images that a selection leaves over, and never a test image."""

import dataclasses

import numpy as np
import pytest
from test_packs import arrays

from benchmarks import recipe
from pini_jax import config
from pini_jax.configs import best
from pini_jax.task import run


@pytest.fixture
def settings(tmp_path):
    np.savez(tmp_path / "pack.npz", **arrays())
    return best.get_config(f"path={tmp_path / 'pack.npz'},shots=2")


def test_no_test_image_is_read(settings):
    resolved = config.resolve(settings)
    shared = run.share(resolved)
    accuracy, nll, ece = recipe.judge(recipe.problem(shared, resolved))
    assert 0 < accuracy <= 1 and nll > 0 and 0 <= ece <= 1
    tests = {record.id for record in shared.whole.test}
    without = {name: x for name, x in shared.frozen.pack.images.items() if name not in tests}
    pack = shared.frozen.pack._replace(images=without)
    shared = shared._replace(frozen=dataclasses.replace(shared.frozen, pack=pack))
    assert recipe.judge(recipe.problem(shared, resolved)) == (accuracy, nll, ece)


def test_some_of_the_classes_are_numbered_anew(settings):
    resolved = config.resolve(settings)
    whole = recipe.problem(run.share(resolved), resolved)
    some = whole.among(np.array([0, 2]))
    assert set(some.labels) == set(some.support.labels) == {0, 1} and len(some.text) == 2
    np.testing.assert_array_equal(some.features[some.labels == 1], whole.features[whole.labels == 2])
    np.testing.assert_array_equal(
        some.support.features[:, some.support.labels == 1], whole.support.features[:, whole.support.labels == 2]
    )


def test_variants_of_a_selection_alone_are_no_others_where_there_is_validation(settings):
    """With one image per class; the selection's own images judge it then."""
    resolved = config.resolve(settings.to_dict() | {"shots": 1})
    whole = recipe.problem(run.share(resolved), resolved)
    alone = whole.without_validation()
    assert len(whole.support.val_labels) and not len(alone.support.val_labels)

    def differs(given):
        with pytest.MonkeyPatch.context() as patch:
            own = recipe.judge(given)
            patch.setattr(recipe.held_out, "judges_trust", recipe.always)
            return recipe.judge(given) != own

    assert differs(alone) and not differs(whole)


def test_every_variant_changes_what_there_is():
    for changes in (*recipe.VARIANTS.values(), *recipe.ALONE.values()):
        for module, constants in changes.items():
            assert all(getattr(module, name) != value for name, value in constants.items())


def test_classes_that_move_by_themselves_have_no_kin(settings):
    resolved = config.resolve(settings)
    given = recipe.problem(run.share(resolved), resolved)
    whole, *_ = recipe.parts(given.support, given.text)
    alone, related = recipe.unrelated(whole.shots[0], whole.text), recipe.class_means(whole.shots[0], whole.text)
    values, vectors = alone.modes
    root = np.sqrt(alone.counts)
    np.testing.assert_allclose((vectors * values) @ vectors.T, root[:, None] * alone.kinship * root)
    assert np.abs(related.kinship - alone.kinship).max() > 0.1


def test_what_is_left_out_does_not_choose():
    """By the others, `b` and `c`, the first variant is the best, whatever `a` says."""
    measured = {
        "a": {"as it is": np.array([0.5, 1.0, 0.1]), "other": np.array([0.6, 0.5, 0.1])},
        "b": {"as it is": np.array([0.5, 1.0, 0.1]), "other": np.array([0.4, 1.2, 0.1])},
        "c": {"as it is": np.array([0.5, 1.0, 0.1]), "other": np.array([0.5, 0.9, 0.1])},
    }
    of_a, of_b, of_c = recipe.chosen_elsewhere(measured)
    assert of_a == "a: by the others 'as it is', 50.0% 1.000; as it is 50.0% 1.000"
    assert of_b == "b: by the others 'other', 40.0% 1.200; as it is 50.0% 1.000"
    assert "'other'" in of_c
