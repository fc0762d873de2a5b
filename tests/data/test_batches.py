"""The batch of a step is a pure function of the step."""

import numpy as np
import pytest

from pini_jax.data.batches import Batches


def epoch(batches, number):
    return [batches.at(number * batches.per_epoch + i) for i in range(batches.per_epoch)]


def images(batches, number):
    return np.concatenate([batch.images for batch in epoch(batches, number)])


@pytest.mark.parametrize(("num_images", "per_epoch"), [(12, 3), (15, 3), (4, 1), (7, 1)])
def test_no_image_comes_twice_in_an_epoch(num_images, per_epoch):
    batches = Batches(num_images, batch_size=4, views=0, seed=1)
    assert batches.per_epoch == per_epoch
    for number in range(3):
        seen = images(batches, number)
        assert len(seen) == len(set(seen)) == 4 * per_epoch
        assert set(seen) <= set(range(num_images))
        assert all(
            (batch.weights == 1).all() and batch.weights.dtype == np.float32 for batch in epoch(batches, number)
        )


def test_every_image_has_its_turn():
    """The three that do not fill a batch are others in every epoch."""
    batches = Batches(15, batch_size=4, views=0, seed=1)
    assert set(np.concatenate([images(batches, number) for number in range(8)])) == set(range(15))


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(images(Batches(12, 4, 0, seed), number)) for seed in range(3) for number in range(3)}
    assert len(orders) == 9


def test_a_batch_depends_on_its_step_alone():
    forwards = [Batches(12, 4, 2, seed=1).at(step) for step in range(40)]
    batches = Batches(12, 4, 2, seed=1)
    for step in reversed(range(40)):
        for a, b in zip(batches.at(step), forwards[step], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_small_selection_is_one_padded_batch():
    batches = Batches(3, batch_size=5, views=0, seed=1)
    assert batches.per_epoch == 1
    for step in range(4):
        _, chosen, weights = batches.at(step)
        np.testing.assert_array_equal(weights, [1, 1, 1, 0, 0])
        assert weights.dtype == np.float32
        assert sorted(chosen[:3]) == [0, 1, 2]
        assert chosen.shape == (5,) and set(chosen) <= {0, 1, 2}  # padding is an image that exists


@pytest.mark.parametrize(("views", "expected"), [(0, [0, 1, 2, 3, 4]), (2, [0, 1, 0, 1, 0]), (1, [0] * 5)])
def test_views_go_round_or_are_fresh(views, expected):
    batches = Batches(12, batch_size=4, views=views, seed=1)
    assert [{batch.view for batch in epoch(batches, number)} for number in range(5)] == [{v} for v in expected]
