"""pini export: the files answer as the classifier does, wherever they are run."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_clips
from absl import flags
from PIL import Image
from safetensors.numpy import load_file
from samples import sample

import pini_jax
from pini_jax import config as configs
from pini_jax import export as command
from pini_jax.clip import architecture
from pini_jax.clip.checkpoints import open_clip, weights
from pini_jax.core import mesh
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import digits
from pini_jax.evaluate.doubt import Doubt
from pini_jax.runs import injector
from pini_jax.task import frozen as frozen_halves
from pini_jax.task import task as tasks
from pini_jax.use import export

SIGLIP = Path(__file__).parent.parent / "recordings" / "transformers_siglip"
PATCHES = {"patch_tokens": {"generator": "mlp"}}
TEXTS = {"text_features": {"generator": "table"}}
DOUBT = Doubt(temperature=1.7, lac=0.9, images=40)


def resnet(folder):
    """A random RN of a few kilobytes, as OpenCLIP saves one."""
    text = {"context_length": 24, "vocab_size": 521, "width": 16, "heads": 2, "layers": 1}
    image = {"image_size": 32, "width": 4, "layers": [1, 1, 1, 1], "head_width": 32}
    model = {"embed_dim": 24, "vision_cfg": image, "text_cfg": text}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    tiny_clips.tokenizer().save(str(folder / "tokenizer.json"))
    sizes = open_clip.read_open_clip_config({"model_cfg": model})
    assert isinstance(sizes.image, architecture.ResNet)
    positive = lambda path, x: np.abs(x) + 0.1 if path[-1].key == "var" else x  # noqa: E731
    theta = jax.tree.map_with_path(positive, tiny_clips.theta(sizes))
    weights.save_weights(folder / "open_clip_model.safetensors", open_clip.scheme(sizes), theta)
    return folder


CLIPS = {"vit": tiny_clips.hugging_face_folder, "resnet": resnet, "siglip": lambda _: SIGLIP}


def make_run(folder, clip, **settings):
    """What a run with random variables exports; returns its folder."""
    named = {"clip": str(clip), "template": "x x {}", "zero_shot_template": "{}", "image_size": 32}
    config = configs.resolve(named | settings)
    frozen, names = frozen_halves.load_towers(config, mesh.make_mesh()), tiny_clips.NAMES
    method = configs.make_method(config, frozen.towers)
    text, _ = tasks.texts(config, frozen, names, "")
    shapes = jax.eval_shape(lambda key: method.init(key, frozen.theta, text), jax.random.key(0))
    variables = tiny_clips.random(shapes)
    exported = injector.Exported(variables, config, names, frozen.fingerprint, doubts={"mean": DOUBT})
    injector.save_injector(folder / "injector.safetensors", exported)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Real images, of other sizes than a CLIP's."""
    for i, record in enumerate(digits.load_digits().test[:3]):
        (tmp_path / f"{i}.png").write_bytes(record.source)
        picture = Image.open(tmp_path / f"{i}.png").resize((40 + 8 * i, 50))
        picture.save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(3)]


def pini_export(folder, form, name, *more):
    """The file that the command writes, and what stands beside it."""
    values = flags.FlagValues()
    command.define_flags(values)
    values(["pini export", f"--workdir={folder}", f"--format={form}", f"--output={folder / name}", *more])
    command.main(values)
    content = (folder / name).read_bytes()
    beside = json.loads((folder / f"{name}.json").read_text())
    assert beside["sha256"] == hashlib.sha256(content).hexdigest() and beside["format"] == form
    return content, beside


def pixels_of(photos, preprocessing):
    """By what stands beside a file alone, with Pillow and NumPy."""
    side, crop = preprocessing["size"], preprocessing["crop"]

    def read(photo):
        picture = Image.open(photo).convert("RGB")
        scale = side / min(picture.size)
        size = (side, side) if preprocessing["squash"] else [int(x * scale) for x in picture.size]
        picture = picture.resize(size, preprocessing["resample"])
        left, top = ((x - crop) // 2 for x in picture.size)
        x = np.asarray(picture.crop((left, top, left + crop, top + crop)), np.float32) / 255
        return (x - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])

    return np.stack([read(photo) for photo in photos])


@pytest.mark.parametrize("noise", [TEXTS, PATCHES], ids=["features", "patches"])
@pytest.mark.parametrize("kind", CLIPS)
def test_a_program_answers_as_the_classifier(tmp_path, photos, kind, noise):
    run = make_run(tmp_path, CLIPS[kind](tmp_path / "clip"), noise=noise)
    content, beside = pini_export(run, "stablehlo", "program")
    trained = pini_jax.load_classifier(run)
    assert beside["class_names"] == list(tiny_clips.NAMES)
    assert beside["doubt"] == {"temperature": 1.7, "lac": 0.9, "aps": None, "known": None, "images": 40}
    program, expected = jax.export.deserialize(bytearray(content)), trained(photos)
    assert program.platforms == ("cpu", "cuda", "tpu")
    pixels = pixels_of(photos, beside["preprocessing"])
    for number in (1, 3):
        np.testing.assert_allclose(program.call(pixels[:number]), expected[:number], atol=1e-4)
    assert np.ptp(expected, axis=1).min() > 1e-3  # unlike each other


@pytest.mark.parametrize("noise", [TEXTS, PATCHES], ids=["features", "patches"])
@pytest.mark.parametrize("kind", sample(CLIPS, "vit"))
def test_onnx_runtime_answers_as_the_classifier(tmp_path, photos, kind, noise):
    pytest.importorskip("jax2onnx", reason="the converter is of the extra export")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is of the extra export")
    run = make_run(tmp_path, CLIPS[kind](tmp_path / "clip"), noise=noise)
    content, beside = pini_export(run, "onnx", "model.onnx")
    session, expected = runtime.InferenceSession(content), pini_jax.load_classifier(run)(photos)
    pixels = pixels_of(photos, beside["preprocessing"])
    for number in (1, 3):
        (found,) = session.run(["probabilities"], {"pixels": pixels[:number]})
        np.testing.assert_allclose(found, expected[:number], atol=1e-4)


def test_an_onnx_file_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx", reason="the converter is of the extra export")
    run = make_run(tmp_path, tiny_clips.hugging_face_folder(tmp_path / "clip"), noise=TEXTS)
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(InputError, match="answers otherwise"):
        pini_export(run, "onnx", "model.onnx")
    assert not list(run.glob("model.onnx*"))


def test_a_program_runs_where_this_package_is_not(tmp_path, photos):
    run = make_run(tmp_path, tiny_clips.hugging_face_folder(tmp_path / "clip"), noise=tiny_clips.NOISE)
    _, beside = pini_export(run, "stablehlo", "program")
    np.save(tmp_path / "pixels.npy", pixels_of(photos, beside["preprocessing"]))
    code = """
import sys, jax, numpy
from jax import export
program = export.deserialize(bytearray(open("program", "rb").read()))
numpy.save("answers.npy", program.call(numpy.load("pixels.npy")))
assert not [name for name in sys.modules if name.startswith(("pini_jax", "flax"))]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = pini_jax.load_classifier(run)(photos)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-4)


def test_embeddings_and_plain_features_are_enough(tmp_path, photos):
    run = make_run(tmp_path, tiny_clips.hugging_face_folder(tmp_path / "clip"), noise=TEXTS)
    _, beside = pini_export(run, "embeddings", "classes.safetensors")
    found, trained = load_file(run / "classes.safetensors"), pini_jax.load_classifier(run)
    features = np.asarray(trained.towers.encode(pixels_of(photos, beside["preprocessing"])))
    cosines = features / np.linalg.norm(features, axis=-1, keepdims=True) @ found["embeddings"].T
    answers = jax.nn.softmax(found["logit_scale"] * cosines / beside["doubt"]["temperature"])
    np.testing.assert_allclose(answers, trained(photos), atol=1e-4)


def test_what_cannot_be_written_is_said_and_nothing_is(tmp_path):
    run = make_run(tmp_path, tiny_clips.hugging_face_folder(tmp_path / "clip"), noise=PATCHES)
    before = sorted(run.iterdir())
    with pytest.raises(InputError, match="more than embeddings of the classes"):
        pini_export(run, "embeddings", "file")
    with pytest.raises(InputError, match="--mode=sample draws anew"):
        pini_export(run, "stablehlo", "file", "--mode=sample")
    with pytest.raises(InputError, match="must be a file in a folder that there is"):
        pini_export(run, "stablehlo", "nowhere/file")
    assert sorted(run.iterdir()) == before


def test_weights_beyond_one_message_are_refused(tmp_path, monkeypatch):
    run = make_run(tmp_path, tiny_clips.hugging_face_folder(tmp_path / "clip"), noise=TEXTS)
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(InputError, match="1,000 are the most"):
        pini_export(run, "stablehlo", "file")
    assert not (run / "file.json").exists()
