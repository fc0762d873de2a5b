"""Tests between methods: at their level where there is no difference, and not blind where there is one."""

import numpy as np
import pytest
import scipy.stats

from pini_jax.report import statistics

SEEDS, IMAGES = 3, 200


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 400)
    monkeypatch.setattr(statistics, "DRAWS_PER_TEST", 0)


def answers(rng, methods, luck, gain=0.0):
    """Right or wrong by seed and image: the same hard images for all, and luck of a seed of every method's own."""
    hard = rng.normal(size=IMAGES)
    for number in range(methods):
        margin = gain * number + luck * rng.normal(size=(SEEDS, 1)) + 0.5 * rng.normal(size=IMAGES)
        yield (hard + margin + 0.3 * rng.normal(size=(SEEDS, IMAGES)) > 0).astype(float)


def pairs(methods):
    return [a - b for i, a in enumerate(methods) for b in methods[:i]]


@pytest.mark.parametrize("luck", [0.0, 0.05, 0.3])
def test_equal_methods_are_told_apart_at_the_level(luck, few_draws):
    """Whether seeds matter or images alone: about 5 % of single tests, and at most so many families after Holm."""
    rng = np.random.default_rng(0)
    families = [statistics.differences(pairs(list(answers(rng, 5, luck)))) for _ in range(60)]
    single = np.array([[x.p < 0.05 for x in family] for family in families])
    whole = [min(statistics.holm([x.p for x in family])) < 0.05 for family in families]
    # 600 tests, ten of a family depend on each other: three standard deviations of 60 families.
    assert 0.005 < single.mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(whole) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_a_difference_is_found(few_draws):
    rng = np.random.default_rng(1)
    found = [statistics.differences(pairs(list(answers(rng, 2, 0.02, gain=0.8))))[0] for _ in range(20)]
    assert np.mean([x.p < 0.05 for x in found]) > 0.7
    assert all(x.low < x.mean < x.high for x in found)
    assert all((x.p < 0.05) == (not x.low <= 0 <= x.high) for x in found)


def test_images_alone_reject_too_often():
    """What resampling of images alone would do: the reason why seeds count."""
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(100):
        (pair,) = pairs(list(answers(rng, 2, 0.3)))
        means = pair.mean(0)
        rejected.append(abs(means.mean()) > 1.96 * means.std(ddof=1) / np.sqrt(IMAGES))
    assert np.mean(rejected) > 0.3


def test_the_same_answers_are_no_difference():
    (found,) = statistics.differences([np.zeros((SEEDS, IMAGES))])
    assert found == (0, 0, 0, 1)


def test_seeds_alone_are_student_s_test():
    values = np.array([[0.02], [0.05], [0.03], [0.06]])
    (found,) = statistics.differences([values])
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(values[:, 0], 0).pvalue, abs=0.005)


def test_one_seed_is_a_test_over_images():
    pair = np.random.default_rng(0).choice([-1.0, 0, 1], size=(1, 500), p=[0.1, 0.75, 0.15])
    (found,) = statistics.differences([pair])
    half = 1.96 * pair.std(ddof=1) / np.sqrt(500)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_nothing_repeated_is_no_test():
    (found,) = statistics.differences([np.array([[0.1]])])
    assert found.mean == 0.1 and np.isnan(found.p)


def test_holm():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = statistics.holm([0.5, float("nan"), 0.6])
    assert adjusted[0] == 1 and np.isnan(adjusted[1]) and adjusted[2] == 1


def test_variances_lend_each_other_what_they_have_in_common():
    rng = np.random.default_rng(0)
    alike = statistics.moderated(list(rng.normal(size=(200, 3))))
    assert all(0.7 < x.value < 1.4 and x.freedom > 20 for x in alike)
    scales = np.exp(rng.normal(0, 3, size=(200, 1)))
    unlike = statistics.moderated(list(scales * rng.normal(size=(200, 3))))
    assert all(x.freedom < 4 for x in unlike)
    assert statistics.moderated([np.array([1.0, 3.0])]) == [(2.0, 1.0)]


def test_stretches_of_which_no_two_differ():
    differ = np.zeros((4, 4), bool)
    differ[0, 2] = differ[2, 0] = differ[0, 3] = differ[3, 0] = True
    assert statistics.alike(differ) == [(0, 1), (1, 3)]
    assert statistics.alike(np.ones((3, 3), bool)) == []


def test_spread_is_of_a_sample():
    assert statistics.spread([1.0, 2.0]) == pytest.approx(np.sqrt(0.5))
    assert np.isnan(statistics.spread([1.0]))
