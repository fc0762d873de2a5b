"""Noise that sets itself: invariances, closed forms, draws, and selections that leave little to judge by."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from samples import sample

from pini_jax import config
from pini_jax.configs import best
from pini_jax.core.errors import InputError
from pini_jax.data.support import NO_SUPPORT, Support, stand_ins
from pini_jax.evaluate import calibration, prediction
from pini_jax.methods import empirical_bayes, gaussian_classes, held_out
from pini_jax.methods.empirical_bayes import EmpiricalBayes
from pini_jax.methods.gaussian_classes import Covariance, Head, Shots
from pini_jax.methods.method import Text
from pini_jax.runs import experiment, injector
from pini_jax.use import classifier

KEY, METHOD = jax.random.key(0), EmpiricalBayes()
WIDTH = 16


class World:
    """Gaussian classes of one covariance, and texts that say something of them, far from the images."""

    def __init__(self, classes, seed=0):
        self.chance = np.random.default_rng(seed)
        self.centres = self.chance.standard_normal((classes, WIDTH))
        self.axes = np.linspace(0.3, 1.5, WIDTH)
        self.gap = 2 * self.chance.standard_normal(WIDTH)
        self.text = (self.centres + 0.8 * self.chance.standard_normal(self.centres.shape) - self.gap)[None]

    @property
    def unit_text(self):
        return held_out.unit(self.text[0])

    def images(self, counts):
        labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
        noise = self.chance.standard_normal((len(labels), WIDTH)) * self.axes
        return np.float32(self.centres[labels] + noise + self.gap), labels

    def support(self, counts, val=()):
        features, labels = self.images(counts)
        known = Support(features[None], labels)
        if len(val):
            known = known._replace(**dict(zip(("val_features", "val_labels"), self.images(val), strict=True)))
        return known


def predict(variables, text, images, mode="mean", scale=100.0, draws=64):
    theta = {"logit_scale": jnp.log(jnp.float32(scale))}
    given = (theta, Text(jnp.asarray(text, jnp.float32)), np.float32(images))
    return prediction.predict(METHOD, variables, *given, mode, draws, 0).log_probabilities


def fit(text, support, scale=100.0):
    theta = {"logit_scale": jnp.log(jnp.float32(scale))}
    return METHOD.init(KEY, theta, Text(jnp.asarray(text, jnp.float32)), support)


@pytest.fixture(scope="module")
def world():
    return World(6)


# ------------------------------------------------------------------------------------------------ invariances


@pytest.mark.parametrize("by", [(7.3, 0.2, 1.0), (1e-3, 1e3, 1.0), (1.0, 1.0, 0.13), (3.0, 1 / 3.0, 40.0)])
def test_units_change_nothing(world, by):
    """Of the images' features, of the texts', and of the scale of the logits."""
    of_images, of_text, of_scale = by
    support, (images, _) = world.support([4] * 6, [2] * 6), world.images([20] * 6)
    factor = np.float32(of_images)
    scaled = support._replace(features=factor * support.features, val_features=factor * support.val_features)
    plain = predict(fit(world.text, support), world.text, images)
    other = fit(of_text * world.text, scaled, 100.0 * of_scale)
    found = predict(other, of_text * world.text, of_images * images, scale=100.0 * of_scale)
    np.testing.assert_allclose(np.exp(found), np.exp(plain), atol=1e-5)


def test_the_order_of_images_and_views_that_are_copies_change_nothing(world):
    """Where there are no folds, which go by the order."""
    support, (images, _) = world.support([1] * 6, [3] * 6), world.images([20] * 6)
    plain = predict(fit(world.text, support), world.text, images)
    order = world.chance.permutation(6)
    for other in (
        support._replace(features=support.features[:, order], labels=support.labels[order]),
        support._replace(features=np.repeat(support.features, 3, axis=0)),
    ):
        found = predict(fit(world.text, other), world.text, images)
        np.testing.assert_allclose(np.exp(found), np.exp(plain), atol=1e-5)


# ------------------------------------------------------------------------------------------------ closed forms


def shots_of(features, labels):
    return Shots(features, labels, np.ones(len(labels)), np.arange(len(labels)))


def test_the_posterior_is_that_of_the_joint_gaussian(world):
    """Every class mean at once, as one vector of c e numbers, with the whole prior covariance written out."""
    k, text = 2.0, held_out.unit(world.text[0])
    features, labels = world.images([3, 1, 2, 4, 1, 2])
    shots = shots_of(held_out.unit(features), labels)
    means = gaussian_classes.means(shots, text)
    within = gaussian_classes.covariance(shots, means, k).shrunk(0.3)
    head = gaussian_classes.posterior_head(means, within, k)

    white = within.whitener()
    assert np.allclose(white.T @ within.matrix() @ white, np.eye(WIDTH))
    n = np.array([3, 1, 2, 4, 1, 2])[:, None]
    predicted, moved = (means.predicted - means.middle) @ white, (means.observed - means.predicted) @ white
    shape = predicted + moved * n / (n + 4 * k)
    directions = np.eye(WIDTH) + WIDTH * shape.T @ shape / np.square(shape).sum()
    centred = text - text.mean(0)
    gram = centred @ centred.T
    prior = np.kron(np.eye(6) + gram * 6 / np.trace(gram), directions / (4 * k))
    error = np.kron(np.diag(1 / n[:, 0]), np.eye(WIDTH))
    posterior = predicted + (prior @ np.linalg.solve(prior + error, moved.ravel())).reshape(6, WIDTH)
    np.testing.assert_allclose(head.weights, white @ posterior.T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(head.bias, -np.square(posterior).sum(1) / 2, rtol=1e-7)


def test_the_gradient_is_that_of_the_loss_and_the_loss_bounds_that_of_draws(world):
    features, labels = world.images([4] * 6)
    shots = shots_of(held_out.unit(features), labels)
    rows, bias = world.chance.standard_normal((24, WIDTH)), world.chance.standard_normal(6)
    start, at = world.chance.standard_normal((2, 6, WIDTH))
    arguments = (0.3, shots, rows, start, bias)
    value, gradient = gaussian_classes._noisy_loss(at.ravel(), *arguments)
    way = world.chance.standard_normal(at.size)
    up, down = (gaussian_classes._noisy_loss(at.ravel() + s * 1e-5 * way, *arguments)[0] for s in (1, -1))
    assert (up - down) / 2e-5 == pytest.approx(gradient @ way, rel=1e-6)
    noise = world.chance.standard_normal((4000, 24, WIDTH)) / WIDTH**0.5
    drawn = scipy.special.log_softmax((rows + noise) @ at.T + bias, axis=-1)
    expected = -drawn[:, np.arange(24), labels].mean(0).sum() + 0.15 * np.square(at - start).sum()
    still, _ = gaussian_classes._noisy_loss(at.ravel(), *arguments)
    assert still == value and value > expected


def test_a_strong_pull_stays_and_a_weak_one_goes_down(world):
    features, labels = world.images([4] * 6)
    shots = shots_of(held_out.unit(features), labels)
    start = Head(shots.features.mean(0), world.chance.standard_normal((WIDTH, 6)), np.zeros(6))
    heads = gaussian_classes.learned_heads(shots, start, Covariance(np.full(WIDTH, 1e-4), np.eye(WIDTH)))
    moved = [np.square(head.weights - start.weights).sum() for head in heads]
    assert moved == sorted(moved) and moved[0] > 0


def test_averages_are_those_of_the_logits(world):
    heads = [Head(*(world.chance.standard_normal(s) for s in (WIDTH, (WIDTH, 6), 6))) for _ in range(3)]
    x, weights = world.chance.standard_normal((5, WIDTH)), np.array([0.2, 0.0, 1.5])
    expected = sum(w * head(x) for w, head in zip(weights, heads, strict=True))
    np.testing.assert_allclose(gaussian_classes.combine(heads, weights)(x), expected)


def test_what_says_nothing_gets_no_weight():
    labels = np.arange(60) % 3
    chance = np.random.default_rng(0)
    good = 3.0 * np.eye(3)[labels] + chance.standard_normal((60, 3))
    candidates, other = [np.zeros((60, 3)), good, -good], chance.standard_normal((60, 3))
    share, weights = held_out.average(candidates, other, labels, np.zeros(3, int))
    assert share[1] > 0.99 and weights[1] > 0.5 and weights[0] == weights[2] == 0
    share, weights = held_out.average(candidates, other, labels, np.array([0, 0, 1]))
    assert share[1] == share[2] == 0.5 and weights[1] > 0.25 and weights[0] == weights[2] == 0


# ------------------------------------------------------------------------------------------------ what is held out


def test_every_image_is_held_out_once_and_its_views_with_it(world):
    support = world.support([5, 1, 3], [2, 2, 2])
    support = support._replace(features=np.concatenate([support.features, 2 + support.features]))
    whole, *rest = held_out.parts(support, world.unit_text)
    views, own = whole.shots
    assert len(whole.labels) == 6 and len(views.labels) == 18 and len(own.labels) == 9 and len(rest) == 5
    held = [round(float(x), 6) for part in rest for x in part.features[:, 0]]
    assert sorted(held) == sorted(round(float(x), 6) for x in own.features[:, 0])
    for part in rest:
        assert [len(shots.labels) for shots in part.shots] == [2 * (9 - len(part.labels)), 9 - len(part.labels)]
        assert not any(np.isin(part.features[:, 0], shots.features[:, 0]).any() for shots in part.shots)


def test_copies_of_an_image_count_once(world):
    """Else they would judge what they have shaped, among the validation images as in another fold."""
    support = world.support([3] * 6, [2] * 6)
    copied = support._replace(
        features=np.concatenate([support.features, support.features[:, ::2]], axis=1),
        labels=np.concatenate([support.labels, support.labels[::2]]),
        val_features=np.concatenate([support.features[0, :5], support.val_features]),
        val_labels=np.concatenate([support.labels[:5], support.val_labels]),
    )
    images, _ = world.images([20] * 6)
    plain, found = (predict(fit(world.text, known), world.text, images) for known in (support, copied))
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("shots", sample([1, 4], 1))
def test_views_count_as_far_as_held_out_images_ask_for_them(shots):
    """Those that show something else do no harm; those that show more of the class are worth having."""
    world = World(6, 1)
    support, (images, labels) = world.support([shots] * 6, [2] * 6), world.images([50] * 6)
    others = np.tile(np.roll(support.features, -shots, axis=1), (7, 1, 1))  # of the next class
    more = np.stack([world.images([shots] * 6)[0] for _ in range(7)])

    def nll(views):
        known = support._replace(features=np.concatenate([support.features, views]))
        return -predict(fit(world.text, known), world.text, images)[np.arange(len(labels)), labels].mean()

    alone = nll(support.features[:0])
    assert nll(others) < alone + 0.05
    assert nll(more) < alone - 0.03


def test_one_shot_is_judged_by_validation_or_else_by_classes(world):
    support = world.support([1] * 6, [1, 3, 2, 0, 1, 1])
    whole, swapped = held_out.parts(support, world.unit_text)
    assert len(whole.labels) == 8 and swapped.shots[0].labels.tolist() == [0, 1, 2, 4, 5]
    assert np.isin(swapped.shots[0].features[:, 0], whole.features[:, 0]).all()
    np.testing.assert_array_equal(swapped.features, whole.shots[0].features)
    assert held_out.judges_trust([whole, swapped])
    whole, *rest = held_out.parts(world.support([1] * 6), world.unit_text)
    assert not len(whole.labels) and [len(part.labels) for part in rest] == [3, 3]
    assert not held_out.judges_trust([whole, *rest])


def test_every_worth_of_a_text_counts_the_same_where_nothing_tells_it(world, monkeypatch):
    """Images of classes that are left out would choose the one that rates the classes with images lowest."""
    shares, average = [], held_out.average

    def watched(*given):
        shares.append((found := average(*given))[0])
        return found

    monkeypatch.setattr(held_out, "average", watched)
    for val in ((), [1] * 6):
        empirical_bayes.fit(held_out.parts(world.support([1] * 6, val), world.unit_text))
    alone, _, judged, _ = (each.reshape(-1, len(empirical_bayes.SHRINKAGES)).sum(1) for each in shares)
    np.testing.assert_allclose(alone, 1 / len(empirical_bayes.WORTHS))
    assert np.ptp(judged) > 0.02


def test_texts_that_nobody_knows_say_nothing(world):
    support = world.support([5, 1, 3], [2, 2, 2])._replace(has_texts=False)
    given = stand_ins(held_out.unit(support.features[0]), support.labels, 3)
    whole, *rest = held_out.parts(support, given)
    assert not any(part.text.any() for part in (whole, *rest))
    assert sum(len(part.labels) for part in rest) == 8, "the only image of a class stays"
    assert all(set(part.shots[0].labels) == {0, 1, 2} for part in rest)


COUNTS = [2] * 12, [3] * 12, [8] * 12, [2, 2, *[1] * 10], [5, 5, *[1] * 10], [2] * 6 + [1] * 6, [*range(1, 13)]


@pytest.mark.parametrize("counts", sample(COUNTS, COUNTS[0], COUNTS[4]), ids=str)
def test_without_texts_it_is_no_worse_than_the_means_of_images(counts):
    """In the mean over worlds, however few images judge and however unequal classes are."""
    found = []
    for seed in range(6):
        world = World(12, seed)
        support, (images, labels) = world.support(counts)._replace(has_texts=False), world.images([20] * 12)
        (whole, *_) = parts = held_out.parts(support, world.unit_text)
        means = gaussian_classes.means(whole.shots[0], whole.text).observed
        heads = empirical_bayes.fit(parts).head, gaussian_classes.lone_head(means)
        for head in heads:
            log_p = scipy.special.log_softmax(head(held_out.unit(images)), axis=1)
            found.append([(log_p.argmax(1) == labels).mean(), -log_p[np.arange(len(labels)), labels].mean()])
    accuracy, nll = np.reshape(found, (6, 2, 2)).mean(0).T
    assert accuracy[0] > accuracy[1] - 0.03
    assert nll[0] < nll[1]


def test_images_of_one_class_alone_do_not_judge(world):
    """They cannot say how it compares to others."""
    support = world.support([4, 1, 1, 1, 1, 1])._replace(has_texts=False)
    (whole,) = held_out.parts(support, world.unit_text)
    assert not len(whole.labels)


def test_with_one_image_of_each_class_for_its_text_nobody_judges(world):
    support = world.support([1] * 6)._replace(has_texts=False)
    text = stand_ins(held_out.unit(support.features[0]), support.labels, 6)
    (whole,) = held_out.parts(support, text)
    assert not len(whole.labels)
    images, labels = world.images([50] * 6)
    found = predict(fit(text[None], support), text[None], images)
    nearest = 100 * held_out.unit(images) @ text.T
    right = [(x.argmax(1) == labels).mean() for x in (found, nearest)]
    assert right[0] > right[1] - 0.05
    nll = [-scipy.special.log_softmax(x, axis=1)[np.arange(300), labels].mean() for x in (found, nearest)]
    assert nll[0] < min(nll[1], np.log(6)), "neither as sure as CLIP is of texts, nor as if nothing were known"


def test_one_image_of_each_of_many_classes_is_as_sure_as_it_may_be():
    """Where images of a class do vary as much as classes do, no temperature helps."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((300, 8))
    head = gaussian_classes.lone_head(centres + chance.standard_normal(centres.shape))
    labels = np.repeat(np.arange(300), 10)
    logits = head(centres[labels] + chance.standard_normal((3000, 8)))
    assert 0.85 < calibration.temperature(logits, labels) < 1.15


def test_images_that_cancel_out_stand_for_no_text():
    with pytest.raises(InputError, match="cancel out"):
        stand_ins(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([0, 0, 1]), 2)


@pytest.mark.parametrize(
    "counts, val", [((1, 1), ()), ((1, 1), (1, 1)), ((9, 1), ()), ((2, 7, 1), (0, 3, 0)), ((3, 3), ())], ids=str
)
def test_small_and_unequal_selections(counts, val):
    world = World(len(counts))
    images, _ = world.images([30] * len(counts))
    variables = fit(world.text, world.support(counts, val))
    for mode in prediction.MODES:
        p = np.exp(predict(variables, world.text, images, mode))
        assert np.isfinite(p).all()
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-4)


def test_texts_or_images_that_are_all_alike():
    world = World(3)
    alike = np.repeat(world.text[:, :1], 3, axis=1)
    support = world.support([3, 3, 3], [2, 2, 2])
    images, labels = world.images([40, 40, 40])
    found = predict(fit(alike, support), alike, images)
    assert (found.argmax(1) == labels).mean() > 0.5  # by the images alone
    copies = support._replace(features=np.repeat(support.features[:, :1], 9, axis=1))
    assert np.isfinite(predict(fit(world.text, copies), world.text, images)).all()


def test_without_images_it_is_zero_shot_clip(world):
    images, _ = world.images([3] * 6)
    cosine = held_out.unit(images) @ held_out.unit(world.text[0]).T
    for mode in prediction.MODES:
        found = predict(fit(world.text, NO_SUPPORT, scale=20.0), world.text, images, mode)
        np.testing.assert_allclose(found, scipy.special.log_softmax(20 * cosine, axis=1), atol=1e-4)


# ------------------------------------------------------------------------------------------------ draws


def test_draws_cost_little_and_images_help():
    world = World(8, seed=1)
    support, (images, labels) = world.support([4] * 8, [4] * 8), world.images([200] * 8)
    variables = fit(world.text, support)
    assert float(variables.phi["scale"].max()) > 0
    right = {mode: predict(variables, world.text, images, mode).argmax(1) == labels for mode in prediction.MODES}
    zero_shot = predict(fit(world.text, NO_SUPPORT), world.text, images).argmax(1) == labels
    assert right["mean"].mean() > zero_shot.mean() + 0.05
    assert abs(right["sample"].mean() - right["mean"].mean()) < 0.01
    assert abs(right["marginal"].mean() - right["mean"].mean()) < 0.01
    assert (right["sample"] != right["mean"]).any()


def test_a_draw_may_cost_what_is_said():
    """Of probabilities that are right, by more draws than have set the size."""
    chance = np.random.default_rng(3)
    logits, lengths = 2 * chance.standard_normal((3000, 5)), 0.5 + chance.random(3000)
    p = scipy.special.softmax(logits, axis=1)
    labels = np.array([chance.choice(5, p=row) for row in p])
    size, temperature = held_out.draw_size(logits, lengths, labels)
    drawn = [logits + size * lengths[:, None] * chance.standard_normal(logits.shape) for _ in range(40)]
    lost = np.mean([p.max(1).mean() - p[np.arange(3000), x.argmax(1)].mean() for x in drawn])
    assert 0.002 < lost < held_out.COST_OF_A_DRAW * 1.1
    assert 0.9 < temperature < 1.2


def test_the_error_of_a_mean_is_that_of_a_sample():
    assert held_out.with_error(np.array([0.0, 2.0])) == 1 + 1  # s = sqrt(2), of two
    assert held_out.with_error(np.arange(5.0)) == pytest.approx(2 + np.sqrt(2.5 / 5))


def test_one_image_allows_no_noise():
    """Nobody knows what draws cost on another one."""
    size, temperature = held_out.draw_size(np.array([[3.0, 0.0, 1.0]]), np.ones(1), np.zeros(1, int))
    assert size == 0 and np.isfinite(temperature)


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def run(tmp_path):
    """A run on a pack of two classes."""
    world = World(2)
    (train, train_labels), (test, test_labels) = world.images([6, 6]), world.images([20, 20])
    np.savez(
        tmp_path / "pack.npz",
        train_x=train,
        train_y=train_labels,
        test_x=test,
        test_y=test_labels,
        text=world.text[0].astype(np.float32),
        classnames=np.array(["left", "right"]),
    )
    settings = best.get_config(f"path={tmp_path / 'pack.npz'},shots=2,num_draws=4")
    return config.resolve(settings), tmp_path / "run"


def test_a_run_is_exported_and_not_repeated(run):
    settings, workdir = run
    first = experiment.train_and_evaluate(settings, workdir)
    assert set(first["test"]) >= set(prediction.MODES) and first["steps"] == 0
    exported = injector.load_injector(workdir / "injector.safetensors")
    theta = {"logit_scale": jnp.log(jnp.float32(100.0))}
    text = Text(jnp.ones((1, 2, WIDTH)))
    classifier.check_variables(METHOD, theta, text, exported.variables)
    assert not (workdir / "classes.safetensors").exists()  # a cosine would not do
    again = experiment.train_and_evaluate(settings, workdir)
    assert json.dumps(again) == json.dumps(first)


def test_a_run_sees_validation_images_and_no_other_ones(run, monkeypatch):
    seen = []

    def watched(parts):
        seen.append(parts[0])
        return empirical_bayes.zero_shot(parts[0].text, 1.0)

    monkeypatch.setattr(empirical_bayes, "fit", watched)
    settings, workdir = run
    result = experiment.train_and_evaluate(settings, workdir)
    whole = seen[0]  # others are those of its folds, which calibrate
    assert whole.shots[0].features.shape == (result["num_train"], WIDTH)
    assert whole.features.shape == (4, WIDTH)
