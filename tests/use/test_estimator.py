"""The scikit-learn classifier: the training and the prediction of the command line, behind another face."""

import io
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn", reason="the classifier is of the extra sklearn")

from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pini_jax
from pini_jax import Classifier, InputError
from pini_jax import config as configs
from pini_jax.configs import best
from pini_jax.data import selection
from pini_jax.data.datasets import digits, packs
from pini_jax.data.datasets.records import Dataset, Record
from pini_jax.evaluate import cross_fit
from pini_jax.runs import experiment, injector
from pini_jax.use import estimator
from pini_jax.use.classifier import BATCH_SIZES

QUICK = {"epochs": 1, "lr": 0.005}
NOISE = {"image_features": {"generator": "mlp"}}
OF_STEPS = {"noise": NOISE, "optim": QUICK, "objective": {"kl_weight": 1.0}, "num_samples": 2, "batch_size": 8}
CLASSES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes in folders, eight of each for training and two for testing; by split, sorted."""
    folder, data = tmp_path_factory.mktemp("photos"), digits.load_digits()
    for label, name in enumerate(CLASSES):
        records = [record for record in data.train if record.label == label][:10]
        for i, record in enumerate(records):
            file = folder / ("train" if i < 8 else "test") / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(record.source)
    return {split: sorted((folder / split).rglob("*.png")) for split in ("train", "test")} | {"all": folder}


def names_of(paths):
    return [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(photos):
    classifier = Classifier("tiny_clip", noise=NOISE, optim=QUICK, views=2)
    return classifier.fit(photos["train"], names_of(photos["train"]))


def features(seed=0, classes=3, width=6):
    """Directions with a little noise, thirty of each class."""
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 30)
    return np.eye(width)[labels] + chance.normal(0, 0.3, (len(labels), width)), labels


# ------------------------------------------------------------------------------------------------ one training


@pytest.mark.parametrize(
    "settings",
    (
        pytest.param({}, marks=pytest.mark.long, id="pini"),
        pytest.param({"method": "tip_adapter"}, id="tip_adapter"),
    ),
)
def test_same_bits_as_the_command_line(photos, tmp_path, settings):
    config = configs.default() if not settings else configs.with_method(configs.default(), settings["method"])
    config.update({"dataset": f"folder:{photos['all']}", "clip": "tiny_clip", "views": 1, "shots": 8})
    config.optim.update(QUICK)
    experiment.train_and_evaluate(configs.resolve(config), tmp_path)
    alone = injector.load_injector(tmp_path / "injector.safetensors").variables
    classifier = Classifier("tiny_clip", optim=QUICK, views=1, **settings)
    fitted = classifier.fit(photos["train"], names_of(photos["train"]))
    jax.tree.map(np.testing.assert_array_equal, fitted.exported_.variables, alone)
    found = pini_jax.load_classifier(tmp_path)(photos["test"])
    assert fitted.classes_.tolist() == sorted(CLASSES)
    np.testing.assert_array_equal(fitted.predict_proba(photos["test"]), found)


@pytest.mark.long
def test_what_sets_itself_is_the_default_of_images(photos, tmp_path):
    """With the same views as the config of that name."""
    config = best.get_config(f"dataset=folder:{photos['all']},clip=tiny_clip,shots=8,num_draws=2")
    experiment.train_and_evaluate(configs.resolve(config), tmp_path)
    alone = injector.load_injector(tmp_path / "injector.safetensors").variables
    fitted = Classifier("tiny_clip", num_draws=2).fit(photos["train"], names_of(photos["train"]))
    assert fitted.exported_.config.method == "empirical_bayes"
    jax.tree.map(np.testing.assert_array_equal, fitted.exported_.variables, alone)


@pytest.mark.parametrize("given", [{}, *({key: value} for key, value in OF_STEPS.items())], ids=str)
def test_a_setting_of_steps_says_which_method_is_meant(given, monkeypatch):
    seen = []
    monkeypatch.setattr(estimator, "_train", lambda data, name, config, *_: seen.append(config.method))
    monkeypatch.setattr(estimator.classifiers, "assemble", lambda *_: None)
    Classifier(**given).fit(*features())
    Classifier(method="gda", **given).fit(*features())
    assert seen == ["pini" if given else "empirical_bayes", "gda"]


@pytest.mark.parametrize("kind", ("pictures", "arrays", "one array", "bytes", "texts"))
def test_arrays_and_pictures_are_files_of_their_pixels(photos, fitted, kind):
    def convert(paths):
        pictures = [Image.open(path) for path in paths]
        arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
        return {
            "pictures": pictures,
            "arrays": arrays,
            "one array": np.stack(arrays),
            "bytes": [path.read_bytes() for path in paths],
            "texts": list(map(str, paths)),
        }[kind]

    other = clone(fitted).fit(convert(photos["train"]), names_of(photos["train"]))
    jax.tree.map(np.testing.assert_array_equal, other.exported_.variables, fitted.exported_.variables)
    found = other.predict_proba(convert(photos["test"]))
    np.testing.assert_array_equal(found, fitted.predict_proba(photos["test"]))


def test_a_photo_on_its_side_is_turned_as_its_file_is(fitted):
    file, pixels = io.BytesIO(), np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    of_bytes = fitted.predict_proba([file.getvalue()])
    np.testing.assert_array_equal(fitted.predict_proba([Image.open(file)]), of_bytes)
    np.testing.assert_array_equal(fitted.predict_proba([np.rot90(pixels, -1)]), of_bytes)


def test_a_run_in_a_folder_is_gone_on_with(photos, tmp_path):
    classifier = Classifier("tiny_clip", noise=NOISE, optim=QUICK, views=1, workdir=tmp_path / "run")
    given = photos["train"], names_of(photos["train"])
    first = classifier.fit(*given).predict_proba(photos["test"])
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    np.testing.assert_array_equal(classifier.fit(*given).predict_proba(photos["test"]), first)
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written
    np.testing.assert_array_equal(pini_jax.load_classifier(tmp_path / "run")(photos["test"]), first)
    with pytest.raises(InputError, match="another config .dataset is .memory:"):
        classifier.fit(photos["train"][1:], names_of(photos["train"][1:]))


def test_few_shots_are_drawn_where_they_are_asked_for(photos):
    classifier = Classifier("tiny_clip", method="tip_adapter", views=1, shots=2)
    classifier.fit(photos["train"], names_of(photos["train"]))
    assert classifier.exported_.config.shots == 2
    assert {len(x) for x in jax.tree.leaves(classifier.exported_.variables) if x.ndim == 2} >= {6}


# ------------------------------------------------------------------------------------------------ one prediction


def test_a_saved_one_is_what_a_run_exports(photos, fitted, tmp_path):
    fitted.save(tmp_path / "digits.safetensors")
    program = (
        "import sys, numpy as np, pini_jax; c = pini_jax.Classifier.load(sys.argv[1]);"
        "np.save(sys.argv[2], c.predict_proba(sys.argv[3:])); print(*c.predict(sys.argv[3:]))"
    )
    paths = list(map(str, photos["test"]))
    words = [str(tmp_path / "digits.safetensors"), str(tmp_path / "p.npy"), *paths]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), fitted.predict_proba(photos["test"]))
    assert done.stdout.split() == fitted.predict(photos["test"]).tolist()
    command = [sys.executable, "-m", "pini_jax.predict", f"--workdir={words[0]}", *paths]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split("\t")[1] for line in printed.splitlines()] == fitted.predict(photos["test"]).tolist()


def test_numbers_are_classes_too(photos, tmp_path):
    labels = [CLASSES.index(name) * 5 for name in names_of(photos["train"])]
    named = {0: "zero", 5: "one", 10: "two", 99: "three"}
    classifier = Classifier("tiny_clip", method="tip_adapter", views=1, class_names=named)
    classifier.fit(photos["train"], labels)
    assert classifier.classes_.tolist() == [0, 5, 10]
    assert classifier.exported_.class_names == CLASSES
    classifier.save(tmp_path / "c")
    again = Classifier.load(tmp_path / "c")
    assert again.classes_.tolist() == [0, 5, 10] and again.classes_.dtype == classifier.classes_.dtype
    np.testing.assert_array_equal(again.predict(photos["test"]), classifier.predict(photos["test"]))


def test_a_pickled_one_is_the_same(photos, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(photos["test"]), fitted.predict_proba(photos["test"]))


@pytest.fixture
def compilations():
    """A list that grows with every program that is compiled."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_is_compiled_for_other_numbers_of_images(photos, fitted, compilations):
    many = (photos["train"] * 6)[:130]
    for number in BATCH_SIZES:
        fitted.predict(many[:number])
    compilations.clear()
    for number in (1, 2, 7, 9, 63, 65, 72, 73, 128, 130):
        assert len(fitted.predict(many[:number])) == number
    assert not compilations
    pickle.loads(pickle.dumps(fitted)).predict(many[:1])
    assert compilations, "the listener hears what is compiled"


def test_nothing_is_compiled_for_other_numbers_of_features(compilations):
    X, y = features()
    classifier = Classifier(method="gda").fit(X, y)
    classifier.predict(X[:1])
    compilations.clear()
    for number in (2, 30, 90, 255, 256, 257, 600):
        assert len(classifier.predict(np.tile(X, (7, 1))[:number])) == number
    assert not compilations


# ------------------------------------------------------------------------------------------------ features


def test_features_with_those_of_texts(tmp_path):
    X, y = features()
    classes = np.array([2, 0, 1])  # in another order, and one of them is not seen
    text = np.eye(6)[[0, 1, 2, 3]]
    classifier = Classifier(method="zero_shot", text_features=text, class_names=["a", "b", "c", "d"]).fit(
        X, classes[y]
    )
    assert classifier.classes_.tolist() == [0, 1, 2] and classifier.exported_.class_names == ("a", "b", "c")
    assert classifier.score(X, y) > 0.9  # the texts alone say what is what
    classifier.save(tmp_path / "c")
    again = Classifier.load(tmp_path / "c")
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    np.testing.assert_array_equal(pini_jax.load_classifier(tmp_path / "c")(X), classifier.predict_proba(X))


@pytest.mark.parametrize("settings", [{}, {"optim": {"epochs": 5, "lr": 0.01}}], ids=str)
def test_learned_noise_on_features(settings):
    X, y = features()
    assert Classifier(**settings).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9


def test_what_cannot_be_solved_is_told_without_images_that_judge():
    """All images of a class are copies of one."""
    _, y = features()
    with pytest.raises(InputError, match="what was learned gives no numbers"):
        Classifier(method="gda").fit(np.eye(3, 6)[y], y)


@pytest.mark.parametrize("method", [None, "gda", "zero_shot"])
def test_class_means_that_stand_for_texts_have_not_seen_what_judges(method, monkeypatch):
    """Neither the text of a fit, nor of what plain CLIP answers, changes with the images that are left out."""
    X, y = features()
    held, texts = [], []
    wrapped = cross_fit.fits

    def watched(run):
        for fold in wrapped(run):
            held.append([run.data.train[i] for i in fold.images])
            texts.append([np.asarray(text.features[0]) for text in fold.task[1:]])
            yield fold

    monkeypatch.setattr(cross_fit, "fits", watched)
    Classifier(method=method).fit(X, y)
    assert len(held) == 5
    for records, found in zip(held, texts, strict=True):
        rest = np.delete(np.arange(len(y)), [int(record.id) for record in records])
        unit = packs.as_unit(X[rest])
        expected = packs.as_unit(np.stack([unit[y[rest] == label].mean(0) for label in range(3)]))
        for text in found:
            np.testing.assert_allclose(text, expected, atol=1e-6)


def test_one_image_of_each_class_is_no_reason_to_warn(recwarn):
    Classifier().fit(np.eye(6, 8), np.arange(6))
    assert not [str(warning.message) for warning in recwarn if "unique classes" in str(warning.message)]


def test_what_sets_itself_without_texts_has_limits_of_its_folds_and_no_other_temperature():
    found = Classifier(num_draws=2).fit(*features()).trained_.doubt()
    assert found.images == 90 and found.temperature == 1 and np.isfinite(found.lac)


def test_only_images_that_are_trained_on_stand_for_texts(tmp_path):
    """Those that the draw of `shots` leaves over, some of which validate, do not."""
    X, y = features()
    classifier = Classifier(method="zero_shot", shots=2, seed=3).fit(X, y)
    data = Dataset("", ("0", "1", "2"), tuple(Record(str(i), b"", label) for i, label in enumerate(y)), (), ())
    drawn = [int(record.id) for record in selection.select_from_pack(data, 2, 3).train]
    means = np.stack([packs.as_unit(X[[i for i in drawn if y[i] == label]]).mean(0) for label in range(3)])
    np.testing.assert_allclose(classifier.exported_.given["text"], packs.as_unit(means), atol=1e-6)
    classifier.save(tmp_path / "c")
    again = Classifier.load(tmp_path / "c")
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.text_features is None, "fitted to other images, it takes their means"


# ------------------------------------------------------------------------------------------------ scikit-learn

REASONS = {
    "check_estimators_dtypes": "its whole numbers are rows of zeros, which have no direction, as a feature has",
}


CHECKED = [Classifier(method="gda"), Classifier(optim={"epochs": 20, "lr": 0.001}, noise=NOISE)]


@pytest.mark.long
@parametrize_with_checks(CHECKED, expected_failed_checks=lambda estimator: REASONS)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.long
def test_searches_pipelines_and_calibration_of_features():
    X, y = features()
    assert cross_val_score(Classifier(method="gda"), X, y, cv=3).mean() > 0.9
    search = GridSearchCV(Classifier(method="tip_adapter"), {"logit_scale": [10.0, 100.0]}, cv=2).fit(X, y)
    assert set(search.best_params_) == {"logit_scale"} and search.score(X, y) > 0.9
    assert make_pipeline(StandardScaler(), Classifier(method="gda")).fit(X, y).score(X, y) > 0.9
    calibrated = CalibratedClassifierCV(Classifier(method="gda"), cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (90, 3) and calibrated.score(X, y) > 0.9


@pytest.mark.long
def test_searches_pipelines_and_calibration_of_paths(photos):
    given, names = photos["train"], names_of(photos["train"])
    one = Classifier("tiny_clip", method="tip_adapter", views=1)
    assert len(cross_val_score(one, given, names, cv=2)) == 2
    texts = {"template": ["a photo of a {}.", "a photo of the digit {}."]}
    search = GridSearchCV(one, texts, cv=2).fit(given, names)
    assert search.predict(photos["test"]).shape == (6,)
    assert make_pipeline(FunctionTransformer(), one).fit(given, names).predict(given[:2]).shape == (2,)
    assert CalibratedClassifierCV(one, cv=2).fit(given, names).predict_proba(given[:2]).shape == (2, 3)


def test_parameters_are_kept():
    options = dict(
        class_names=["a", "b"], options={"x": 1}, noise=NOISE, optim={"lr": 1.0}, plugins=("x",), shots=3
    )
    classifier = Classifier("tiny_clip", **options)
    assert classifier.get_params()["options"] is options["options"]
    again = clone(classifier).get_params()
    assert {key: again[key] for key in options} == options
    assert set(estimator.SETTINGS) < set(again)


# ------------------------------------------------------------------------------------------------ what is wrong


def test_wrong_input_is_one_line(photos, fitted, tmp_path):
    X, y = features()
    with pytest.raises(NotFittedError):
        Classifier().predict(photos["test"])
    with pytest.raises(InputError, match="nothing.png cannot be read"):
        clone(fitted).fit([*photos["train"], tmp_path / "nothing.png"], [*names_of(photos["train"]), "zero"])
    with pytest.raises(InputError, match="nothing.png cannot be read"):
        fitted.predict([tmp_path / "nothing.png"])
    with pytest.raises(InputError, match=r"image number 0 is float64\[4, 4, 3\]: paths"):
        fitted.predict([np.ones((4, 4, 3))])
    with pytest.raises(InputError, match="trained on images"):
        fitted.predict(X)
    with pytest.raises(InputError, match="trained on features"):
        Classifier(method="gda").fit(X, y).predict(photos["test"])
    with pytest.raises(InputError, match="no name of: 2"):
        Classifier(class_names=["a", "b"]).fit(X, y)
    with pytest.raises(InputError, match=r"text_features has shape \[2, 6\], where \[3 or more, 6\]"):
        Classifier(text_features=np.eye(6)[:2]).fit(X, y)
    with pytest.raises(InputError, match="one class"):
        Classifier().fit(X, np.zeros(len(X)))
    with pytest.raises(InputError, match="lay in the memory of a program"):
        experiment.train_and_evaluate(configs.resolve({"dataset": "memory:ab", "clip": "tiny_clip"}), tmp_path)


def test_without_scikit_learn_a_line_says_what_to_install(tmp_path):
    program = (
        "import sys; sys.modules['sklearn'] = None; sys.path.insert(0, '.')\nimport pini_jax; pini_jax.Classifier"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'pini_jax[sklearn]'")
