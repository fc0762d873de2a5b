"""Unreadable images of one's own dataset: named, and left out up to a bound."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from pini_jax.core import stop
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import folder, sources, unreadable
from pini_jax.data.datasets.records import Dataset, Record, open_image


def encoded(seed, kind="JPEG", size=64, **options):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


DAMAGE = {
    "cut off": encoded(99)[:-900],
    "cut off, progressive": encoded(99, progressive=True)[:1500],
    "cut off, PNG": encoded(99, "PNG")[:5000],
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two classes of fifteen images, with a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(30):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i))
    return tmp_path / "data"


def damage(root, *numbers, content=b"no image"):
    for i in numbers:
        (root / "ab"[i % 2] / f"{i:02d}.jpg").write_bytes(content)


def ids(dataset):
    return [record.id for split in dataset[2:] for record in split]


def test_whole_datasets_stay_as_they_are(root):
    data = folder.find_folder(root, 1).accepted()
    assert unreadable.set_aside(data) == (data, {})


@pytest.mark.parametrize("kind", DAMAGE)
def test_one_image_is_left_out_and_named(root, caplog, kind):
    whole = folder.find_folder(root, 1).accepted()
    damage(root, 4, content=DAMAGE[kind])
    with pytest.raises(InputError):  # what is left out is what a run could not read
        open_image(Record("x", DAMAGE[kind], 0))
    kept, left_out = unreadable.set_aside(whole)
    assert left_out.keys() == {"a/04.jpg"} and left_out["a/04.jpg"].startswith("image a/04.jpg cannot be read (")
    assert ids(kept) == [id for id in ids(whole) if id != "a/04.jpg"]
    assert kept.class_names == whole.class_names
    assert f"{root}: 1 of 30 images cannot be read and are left out (image a/04.jpg cannot" in caplog.text
    assert "python -m pini_jax.data check lists all" in caplog.text


@pytest.mark.parametrize(
    ("damaged", "bound", "fits"), [(5, None, True), (6, None, False), (1, 0, False), (8, 8, True)]
)
def test_the_bound(root, damaged, bound, fits):
    damage(root, *range(damaged))
    data = folder.find_folder(root, 1).accepted()
    if fits:
        assert len(unreadable.set_aside(data, bound)[1]) == damaged
        return
    with pytest.raises(InputError, match=rf"{damaged} of 30 images cannot be read, more than the \d that may"):
        unreadable.set_aside(data, bound)


def test_the_bound_of_many_is_a_hundredth():
    good, bad = encoded(0, size=8), [Record(f"bad/{i}", b"", 0) for i in range(21)]
    train = tuple(Record(f"{i}", good, i % 2) for i in range(2079))
    data = Dataset("toys", ("a", "b"), (*train[:-40], *bad[:20]), (), train[-40:])
    assert len(unreadable.set_aside(data)[1]) == 20
    with pytest.raises(InputError, match=r"21 of 2100 images .* bad/9 .*; and 11 more") as caught:
        unreadable.set_aside(data._replace(test=(*data.test, bad[20])), 20)
    assert "\n" not in str(caught.value)


def test_what_is_left_must_be_of_use(root):
    for file in (root / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="which leaves classes without a training image: b"):
        unreadable.set_aside(folder.find_folder(root, 1).accepted(), 30)


def test_only_new_images_are_looked_at_again(root, monkeypatch):
    seen = []

    def error(record, look=unreadable._error):
        seen.append(record.id)
        return look(record)

    monkeypatch.setattr(unreadable, "_error", error)
    damage(root, 3)
    data = folder.find_folder(root, 1).accepted()
    first = unreadable.set_aside(data)
    assert len(seen) == 30
    assert unreadable.set_aside(data) == first
    assert seen[30:] == ["b/03.jpg"]  # it may have been the disk's fault
    damage(root, 8, content=encoded(77))
    os.utime(root / "a" / "08.jpg", ns=(1, 1))  # clocks may be coarse
    unreadable.set_aside(data)
    assert sorted(seen[31:]) == ["a/08.jpg", "b/03.jpg"]


def test_a_look_that_is_stopped_goes_on_where_it_was(root, monkeypatch):
    seen, stop_at = [], 10

    def error(record, look=unreadable._error):
        seen.append(record.id)
        return look(record)

    def stopped():
        if len(seen) >= stop_at:
            raise stop.Stopped

    monkeypatch.setattr(unreadable, "_error", error)
    monkeypatch.setattr(stop, "raise_if_requested", stopped)
    monkeypatch.setattr(unreadable, "BATCH", 4)
    data = folder.find_folder(root, 1).accepted()
    with pytest.raises(stop.Stopped):
        unreadable.set_aside(data)
    before, stop_at = len(seen), 1000
    assert unreadable.set_aside(data) == (data, {})
    assert before < 15 and len(seen) < before + 30 and set(seen) == {record.id for record in sum(data[2:], ())}


@pytest.mark.parametrize("content", [b"", b"\xff", b"abc\ndef", None])
def test_a_damaged_memory_is_no_memory(root, content):
    damage(root, 3)
    data = folder.find_folder(root, 1).accepted()
    first = unreadable.set_aside(data)
    (memory,) = (root.parent / "cache").rglob("*.txt")
    text = memory.read_bytes()
    # The stamps of all that could be read, with that of the damaged image in the place of one of them.
    memory.write_bytes(text.replace(text[:64], b"0" * 64) if content is None else content)
    assert unreadable.set_aside(data) == first
    assert memory.read_bytes() == text


def test_whose_images_may_be_left_out():
    own = {name for name, source in sources.SOURCES.items() if source.own}
    assert own == {"folder:PATH", "PATH.csv", "PATH.jsonl"}


def test_all_unreadable_images_are_named():
    records = [Record(f"x/{i}", b"", 0) for i in range(30)]
    with pytest.raises(InputError, match=r"image x/0 cannot .*; image x/9 cannot .*; and 20 more"):
        unreadable.refuse_unreadable([*records, Record("good", encoded(0), 0)])
    unreadable.refuse_unreadable([Record("good", encoded(0), 0)])
