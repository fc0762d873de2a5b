"""Stores: objects are whole or not there, and of several that create one, one is told yes."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from stores import Memory

from pini_jax.core.errors import InputError
from pini_jax.core.store import Folder


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return Folder(tmp_path) if request.param == "folder" else Memory()


def test_one_creates(store):
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda i: store.create("a/b/key", b"%d" % i), range(64)))
    assert told.count(True) == 1
    assert store.read("a/b/key") == b"%d" % told.index(True)


def test_what_is_written_is_read(store):
    assert store.read("a/key") is None and store.times("a") == {}
    first = store.write("a/key", b"one")
    assert store.read("a/key") == b"one" and store.times("a") == {"key": first}
    assert store.write("a/key", b"two") >= first and store.read("a/key") == b"two"
    assert not store.create("a/key", b"three") and store.read("a/key") == b"two"


def test_a_folder_lists_what_is_right_in_it(store):
    for key in ("a/one", "a/two", "a/b/three", "four"):
        store.write(key, b"")
    assert set(store.times("a")) == {"one", "two"} and set(store.times("a/b")) == {"three"}


def test_nothing_is_left_of_what_was_not_created(tmp_path):
    store = Folder(tmp_path)
    store.write("a/key", b"one")
    store.create("a/key", b"two")
    assert os.listdir(tmp_path / "a") == ["key"]


def test_what_is_not_whole_yet_is_not_listed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".key.1234").write_bytes(b"")
    assert Folder(tmp_path).times("a") == {}


def test_a_file_system_without_links_is_told(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match="has no hard links .*: a mounted bucket has none"):
        Folder(tmp_path).create("a/key", b"")
    assert os.listdir(tmp_path / "a") == []
