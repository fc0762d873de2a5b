"""ProKeR against scikit-learn's kernel ridge regression in float64."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from test_methods import CLASSES, IMAGES, LABELS, OF_ROW, ROWS, SUPPORT, TEXT, ZERO_SHOT, logits, unit

from pini_jax.data.support import Support
from pini_jax.methods.proker import ProKeR


def expected(rows, labels, beta, ridge):
    """Zero-shot CLIP, and `ridge` times the regression of what it leaves over, by Gaussians of distances."""
    text, cosine = unit(TEXT.features[0]), ZERO_SHOT / 20
    rest = np.eye(CLASSES)[labels] - rows @ text.T
    regression = KernelRidge(alpha=ridge, kernel="rbf", gamma=beta / 2).fit(rows, rest)
    return 20 * (cosine + ridge * regression.predict(unit(IMAGES)))


@pytest.mark.parametrize(("beta", "ridge"), [(1.7, 0.1), (3.0, 2.0)])
def test_it_is_the_regression_of_the_rest(beta, ridge):
    found = logits(ProKeR(beta=beta, ridge=ridge))
    np.testing.assert_allclose(found, expected(ROWS, OF_ROW, beta, ridge), rtol=1e-4, atol=1e-4)


def test_one_shot_is_enough():
    lonely = Support(SUPPORT.features[:1, ::4], LABELS[::4])
    method = ProKeR()
    variables = method.init(None, {}, TEXT, lonely)
    rows = unit(lonely.features[0])
    np.testing.assert_allclose(
        logits(method, variables), expected(rows, lonely.labels, 1.7, 0.1), rtol=1e-4, atol=1e-4
    )


def test_the_proximal_point_is_zero_shot_clip():
    np.testing.assert_allclose(logits(ProKeR(ridge=1e-7)), ZERO_SHOT, rtol=1e-4, atol=1e-4)
