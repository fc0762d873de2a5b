"""pini encode: images to a pack of features, which trains as the images do."""

import numpy as np
import pytest
from absl import flags

from pini_jax import config as configs
from pini_jax import encode
from pini_jax.core import mesh
from pini_jax.core.errors import InputError, UsageError
from pini_jax.data.datasets import digits, packs
from pini_jax.runs import experiment
from pini_jax.task import frozen as frozen_halves


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three classes of eight images."""
    for record in digits.load_digits().train[:400]:
        folder = tmp_path / "photos" / ("zero", "one", "two")[record.label % 3]
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.iterdir())) < 8:
            (folder / f"{record.id.replace('/', '_')}.png").write_bytes(record.source)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def command(*words):
    values = flags.FlagValues()
    encode.define_flags(values)
    _, *rest = values(["pini encode", "--clip=tiny_clip", *words])
    encode.main(values, rest)


def test_a_pack_of_a_folder(photos, capsys):
    command("photos", "--output=photos.npz", "--template=a photo of the digit {}.")
    assert capsys.readouterr().out == "photos.npz: 3 classes, 12 train, 6 val, 6 test images, 64 features each\n"
    pack = packs.load_pack(photos.parent / "photos.npz")
    data = pack.findings.accepted()
    config = configs.resolve({"dataset": "folder:photos", "clip": "tiny_clip"})
    frozen = frozen_halves.load_towers(config, mesh.make_mesh())
    whole = encode.run.open_dataset(config, config.dataset)[0]
    assert data.class_names == whole.class_names == ("one", "two", "zero")
    for split, (own, other) in enumerate(zip(data[2:], whole[2:], strict=True)):
        assert [record.id.partition("/")[2] for record in own] == [record.id for record in other], split
        assert [record.label for record in own] == [record.label for record in other]
        features = packs.as_unit(np.asarray(frozen.images(other, "features")))
        np.testing.assert_array_equal(np.stack([pack.images[record.id] for record in own]), features)
    text = frozen.text_features("a photo of the digit {}.", "", data.class_names)[0]
    np.testing.assert_allclose(pack.text, packs.as_unit(np.asarray(text)), atol=1e-6)
    assert pack.logit_scale == pytest.approx(float(np.exp(frozen.theta["logit_scale"])), rel=1e-6)


def test_a_pack_is_trained_on(photos, tmp_path):
    command("photos", "--output=photos.npz")
    settings = {"dataset": "features:photos.npz", "clip": "", "views": 1, "method": "gda", "noise": {}, "shots": 4}
    result = experiment.train_and_evaluate(configs.resolve(settings), tmp_path / "run")
    assert result["num_classes"] == 3 and result["num_test"] == 6


def test_what_makes_no_pack(photos):
    with pytest.raises(InputError, match="must end in .npz"):
        command("photos", "--output=photos.npy")
    with pytest.raises(UsageError, match="name one INPUT"):
        command("photos", "photos", "--output=photos.npz")
    with pytest.raises(InputError, match="there is no dataset 'nothing'"):
        command("nothing", "--output=photos.npz")
    command("photos", "--output=photos.npz")
    with pytest.raises(InputError, match="clip=.* must be|holds features already"):
        command("features:photos.npz", "--output=other.npz")
