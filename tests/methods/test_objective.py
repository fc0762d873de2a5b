"""The loss and the accuracy, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pini_jax.methods.objective import Objective, objective

LABELS = np.array([0, 2, 2, 1, 0])


def logits(*lead):
    return 3 * np.random.default_rng(0).standard_normal((*lead, 5, 3), np.float32)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 0, 0]], ids=str)
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
def test_means_over_draws_and_images_that_count(lead, weights):
    x, weights = logits(*lead), np.array(weights, np.float32)
    log_p = scipy.special.log_softmax(x.astype(np.float64), axis=-1)
    terms, hits = [], []
    for draw in np.ndindex(lead):
        for b in np.flatnonzero(weights):
            terms.append(-log_p[*draw, b, LABELS[b]])
            hits.append(x[*draw, b].argmax() == LABELS[b])
    parts = objective(x, LABELS, weights)
    assert float(parts.loss) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(parts.accuracy) == pytest.approx(np.mean(hits), rel=1e-6)


def test_padding_gets_no_gradient():
    weights = np.array([1, 1, 0, 1, 0], np.float32)
    gradient = jax.grad(lambda x: objective(x, LABELS, weights).loss)(jnp.asarray(logits(2)))
    touched = np.abs(gradient).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(touched, weights > 0)
    # softmax - one-hot, over draws and images that count
    expected = scipy.special.softmax(logits(2), axis=-1) - np.eye(3)[LABELS]
    np.testing.assert_allclose(gradient, expected * weights[:, None] / (2 * 3), atol=1e-6)


def test_large_logits_do_not_overflow():
    parts = objective(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), np.array([0, 0]), np.ones(2, np.float32))
    assert float(parts.loss) == pytest.approx(5e3)
    assert float(parts.accuracy) == 0.5


# ------------------------------------------------------------------------------------------------ settings

WEIGHTS = np.array([1, 1, 0, 1, 1], np.float32)
COUNTED = np.flatnonzero(WEIGHTS)


@pytest.mark.parametrize("lead", [(1,), (4,), (2, 3)], ids=str)
def test_the_multi_sample_bound_is_the_log_of_the_mean_likelihood(lead):
    x = logits(*lead)
    p = scipy.special.softmax(x.astype(np.float64), axis=-1).reshape(-1, 5, 3).mean(0)
    found = objective(x, LABELS, WEIGHTS, Objective(bound="multi_sample"))
    assert float(found.loss) == pytest.approx(-np.log(p[COUNTED, LABELS[COUNTED]]).mean(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_multi_sample_bound_is_tighter(smoothing):
    """log is concave; one draw leaves nothing between the two."""
    elbo, tighter = (Objective(bound=bound, label_smoothing=smoothing) for bound in ("elbo", "multi_sample"))
    for seed in range(5):
        x = logits(7) + np.random.default_rng(seed).standard_normal((7, 5, 3), np.float32)
        assert objective(x, LABELS, WEIGHTS, tighter).loss < objective(x, LABELS, WEIGHTS, elbo).loss - 0.01
        one = [float(objective(x[:1], LABELS, WEIGHTS, bound).loss) for bound in (elbo, tighter)]
        assert one[0] == pytest.approx(one[1], rel=1e-6)


@pytest.mark.parametrize("bound", ["elbo", "multi_sample"])
def test_smoothed_labels_are_mixed_with_all_classes(bound):
    x = logits(4)
    log_p = scipy.special.log_softmax(x.astype(np.float64), axis=-1)
    log_q = log_p.mean(0) if bound == "elbo" else np.log(np.exp(log_p).mean(0))
    targets = 0.7 * np.eye(3)[LABELS] + 0.3 / 3
    found = objective(x, LABELS, WEIGHTS, Objective(bound=bound, label_smoothing=0.3))
    assert float(found.loss) == pytest.approx(-(targets * log_q).sum(-1)[COUNTED].mean(), rel=1e-5)
    assert found.accuracy == objective(x, LABELS, WEIGHTS).accuracy


def test_a_penalty_is_added_once():
    found = objective(logits(4), LABELS, WEIGHTS, penalty=jnp.float32(1.5))
    assert float(found.loss) == pytest.approx(float(objective(logits(4), LABELS, WEIGHTS).loss) + 1.5, rel=1e-6)
