"""What every store does: a folder, a bucket of each kind, and the one in memory that other tests take."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import emulators
import pytest
from stores import Memory

from pini_jax.core.errors import InputError
from pini_jax.core.store import Folder, open_store
from pini_jax.runs.claims import Claims


@pytest.fixture(params=("folder", "by hand", *emulators.KINDS), scope="module")
def opened(request, tmp_path_factory):
    """name -> an empty store of a kind."""
    if request.param == "by hand":
        yield lambda name: Memory()
    elif request.param == "folder":
        yield lambda name: open_store(tmp_path_factory.mktemp(name))
    else:
        with emulators.bucket(request.param) as url:
            yield lambda name: open_store(f"{url}/{name}")


@pytest.fixture
def store(opened, request):
    return opened(request.node.originalname)


def test_one_creates(store):
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda i: store.create("a/b/key", b"%d" % i), range(32)))
    assert told.count(True) == 1
    assert store.read("a/b/key") == b"%d" % told.index(True)


def test_what_is_written_is_read(store):
    assert store.read("a/key") is None and store.times("a") == {}
    first = store.write("a/key", b"one")
    assert store.read("a/key") == b"one" and store.times("a") == {"key": first}
    assert store.write("a/key", b"two") >= first and store.read("a/key") == b"two"
    store.put("a/key", b"three")
    assert not store.create("a/key", b"four") and store.read("a/key") == b"three"


def test_a_folder_lists_what_is_right_in_it(store):
    for key in ("a/one", "a/two", "a/b/three", "four", "ab/five"):
        store.put(key, b"")
    assert set(store.times("a")) == {"one", "two"} and set(store.times("a/b")) == {"three"}


def test_workers_share_units(store):
    """Each is claimed once, by the precondition of the store itself."""
    barrier, taken = threading.Barrier(4), []

    def work(name):
        claims = Claims(store, 8, name)
        barrier.wait()
        while claim := claims.take():
            taken.append(claim)

    threads = [threading.Thread(target=work, args=(f"worker {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [(unit, 1) for unit in range(8)]


# -------------------------------------------------------------------------------------------------- a folder


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


def test_a_link_whose_answer_was_lost_is_ones_own(tmp_path, monkeypatch):
    """NFS makes it, is asked again, and says that it is there."""
    link = os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lost)
    assert Folder(tmp_path).create("key", b"ours")


def test_a_full_disk_is_not_taken_for_one_without_links(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        Folder(tmp_path).create("key", b"ours")
