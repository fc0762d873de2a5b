"""Interpolated positions; the comparison with transformers is in test_transformers_parity.py."""

import jax
import numpy as np
import pytest

from pini_jax.clip import positions


@pytest.mark.parametrize("name", positions.FILTERS)
@pytest.mark.parametrize(("old", "new"), [(7, 7), (7, 12), (14, 5), (1, 3)])
def test_constants_stay(name, old, new):
    matrix = positions.FILTERS[name](old, new)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    if old == new:
        np.testing.assert_allclose(matrix, np.eye(old), atol=1e-6)


@pytest.mark.parametrize(("name", "mode"), [("bicubic", "bicubic"), ("linear", "bilinear")])
@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (16, 7)])
def test_filters_are_those_of_pytorch(name, mode, old, new):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = torch.nn.functional.interpolate(
        torch.eye(old)[None, :, None], size=(1, new), mode=mode, align_corners=False, antialias=name == "linear"
    )
    np.testing.assert_allclose(positions.FILTERS[name](old, new), theirs[0, :, 0].T, atol=1e-5)


def test_the_class_token_stays():
    position = jax.random.normal(jax.random.key(0), (1 + 16, 3))
    resampled = positions.resample(position, old=4, new=6)
    assert resampled.shape == (1 + 36, 3)
    np.testing.assert_array_equal(resampled[0], position[0])


def test_rows_and_columns_are_not_exchanged():
    """A grid that changes along its rows only."""
    rows = np.repeat(np.arange(4.0), 4)[:, None]
    resampled = np.asarray(positions.resample(rows, old=4, new=8)).reshape(8, 8)
    np.testing.assert_allclose(resampled, resampled[:, :1] * np.ones(8), atol=1e-5)
    assert (np.diff(resampled[:, 0]) > 0).all()
