"""Copies of what is in buckets: fetched once, again where it has changed, whole or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import emulators
import numpy as np
import pytest
from PIL import Image

from pini_jax.clip.checkpoints import hub
from pini_jax.core import bucket as buckets
from pini_jax.core import copies, paths
from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import sources


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "PAUSES", (0.0,))
    with emulators.bucket("memory") as url:
        yield open_bucket(url).below("data")


@pytest.fixture
def fetched(monkeypatch):
    """The keys of what was fetched."""
    keys, get = [], buckets.Bucket.get
    monkeypatch.setattr(buckets.Bucket, "get", lambda self, key, path: keys.append(key) or get(self, key, path))
    return keys


def test_an_object_is_fetched_once_and_again_when_it_has_changed(place, fetched):
    place.put("a/pack.npz", b"one")
    for _ in range(2):
        copy = copies.fetch_copy(f"{place.url}/a/pack.npz")
        assert (copy.name, copy.read_bytes(), fetched) == ("pack.npz", b"one", ["pack.npz"])
    place.put("a/pack.npz", b"two")
    assert copies.fetch_copy(f"{place.url}/a/pack.npz").read_bytes() == b"two" and copy.read_bytes() == b"one"


def test_of_a_folder_only_what_has_changed_is_fetched_again(place, fetched):
    for key in ("a/b/one", "a/two", "a/three", "ab"):
        place.put(key, key.encode())
    tree = copies.fetch_copy(f"{place.url}/a/", lambda key: key != "three")
    assert tree.name == "a" and (tree / "b" / "one").read_bytes() == b"a/b/one"
    assert sorted(path.name for path in tree.rglob("*")) == ["b", "one", "two"]
    place.put("a/two", b"new")
    del fetched[:]
    assert (copies.fetch_copy(f"{place.url}/a", lambda key: key != "three") / "two").read_bytes() == b"new"
    assert fetched == ["two"]


def test_a_copy_knows_where_it_is_from(place, tmp_path):
    place.put("a/b/one", b"1")
    tree = copies.fetch_copy(f"{place.url}/a")
    assert copies.place_of(tree / "b" / "one") == f"{place.url}/a/b/one"
    assert copies.place_of(copies.fetch_copy(f"{place.url}/a/b/one")) == f"{place.url}/a/b/one"
    assert copies.place_of(tmp_path) == str(tmp_path)


def test_many_fetch_at_once(place, monkeypatch):
    lock, get = threading.Lock(), buckets.Bucket.get

    def get_alone(self, key, path):  # a file in memory has one position for all its readers
        with lock:
            get(self, key, path)

    monkeypatch.setattr(buckets.Bucket, "get", get_alone)
    for i in range(20):
        place.put(f"a/{i}", b"%d" % i)
    with ThreadPoolExecutor(8) as pool:
        trees = set(pool.map(lambda _: copies.fetch_copy(f"{place.url}/a"), range(8)))
    (tree,) = trees
    assert {path.name: path.read_text() for path in tree.iterdir()} == {f"{i}": f"{i}" for i in range(20)}
    kept = [path for path in (paths.cache_folder() / "buckets").rglob("*") if path.is_file()]
    assert len(kept) == 41  # copies, links and an address: nothing half made


def test_a_copy_that_seems_gone_while_another_takes_its_place_is_linked_again(place, monkeypatch):
    """As on file systems where a link beside a rename finds nothing."""
    seen, link = [], os.link

    def racing(source, target):
        seen.append(target)
        if len(seen) < 3:
            raise FileNotFoundError
        link(source, target)

    monkeypatch.setattr(os, "link", racing)
    place.put("a/pack.npz", b"one")
    assert copies.fetch_copy(f"{place.url}/a/pack.npz").read_bytes() == b"one" and len(seen) == 3


def test_what_is_not_there_is_named(place):
    with pytest.raises(InputError, match=f"{place.url}/none does not exist"):
        copies.fetch_copy(f"{place.url}/none")


def test_what_changes_while_it_is_fetched_is_refused(place, monkeypatch):
    place.put("a", b"one")
    get = buckets.Bucket.get

    def late(self, key, path):
        get(self, key, path)
        self.put(key, b"two")

    monkeypatch.setattr(buckets.Bucket, "get", late)
    with pytest.raises(InputError, match="was changed while it was copied"):
        copies.fetch_copy(f"{place.url}/a")
    assert not [path for path in paths.cache_folder().rglob("*") if path.is_file()]


def test_keys_that_lead_out_of_the_folder_are_refused(place, tmp_path):
    place.files.pipe_file(f"{place.root}/a/../../../evil", b"")
    with pytest.raises(InputError, match="no file can have"):
        copies.fetch_copy(f"{place.url}/a")


@pytest.mark.parametrize(
    "root, name, joined",
    [
        ("gs://b/data/", "x.npz", "gs://b/data/x.npz"),
        ("/data", "gs://b/x.npz", "gs://b/x.npz"),
        ("/data", "x", "/data/x"),
        ("", "x", "x"),
        ("gs://b", "s3://c/x", "s3://c/x"),
    ],
)
def test_places_are_joined(root, name, joined):
    assert copies.join_place(root, name) == joined


# ---------------------------------------------------------------------------------------------------- datasets


def image(colour):
    return emulators.png(np.full((4, 4, 3), colour, np.uint8))


def test_a_folder_of_images_is_read(place):
    for i in range(6):
        place.put(f"photos/{'ab'[i % 2]}/{i}.png", image(i))
    for name, root in ((f"folder:{place.url}/photos", ""), ("folder:photos", place.url)):
        data = sources.load_dataset(name, root)
        images = data.train + data.val + data.test
        assert data.class_names == ("a", "b")
        assert sorted(record.id for record in images) == sorted(f"{'ab'[i % 2]}/{i}.png" for i in range(6))
        assert all(Image.open(record.source).size == (4, 4) for record in images)


def test_of_a_tables_folder_what_it_lists_is_fetched(place, fetched):
    names = [f"img {i}.png" for i in range(6)]
    for i, name in enumerate(names):
        place.put(f"t/images/{name}", image(i))
    place.put("t/images/other.png", image(9))
    place.put("t/huge.bin", b"0")
    rows = "".join(f"./images/{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))
    place.put("t/table.csv", f"path,label\n{rows}".encode())
    data = sources.load_dataset(f"{place.url}/t/table.csv", "")
    assert len(data.train + data.val + data.test) == 6
    assert set(fetched) == {"table.csv", *(f"images/{name}" for name in names)}


def test_a_table_that_lists_what_is_not_there_says_so(place):
    place.put("t/table.csv", b"path,label\n../x.png,a\ny.png,b\n")
    with pytest.raises(InputError, match="images that are missing"):
        sources.load_dataset(f"{place.url}/t/table.csv", "")


def test_of_a_papers_root_one_dataset_is_fetched(place, fetched):
    place.put("dtd/images/a.jpg", b"")
    place.put("oxford_pets/images/a.jpg", b"")
    with pytest.raises(InputError, match="has no split_zhou_DescribableTextures.json"):
        sources.load_dataset("dtd", place.url)
    assert fetched == ["images/a.jpg"]


def test_weights_bring_the_small_files_beside_them(place, fetched):
    for name in ("model.safetensors", "config.json", "tokenizer.json", "huge.bin", "logs/config.json"):
        place.put(f"clip/{name}", b"{}")
    path = hub.locate(f"{place.url}/clip/model.safetensors").path
    assert path.name == "model.safetensors" and (path.parent / "tokenizer.json").exists()
    assert "huge.bin" not in fetched
    assert hub.locate(f"{place.url}/clip").path.is_dir()
