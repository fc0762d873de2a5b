"""What workers share in a bucket: each chunk of features is encoded once, and programs are compiled once."""

import functools
import threading

import emulators
import jax
import pytest
import tiny_clips

from pini_jax.core import bucket as buckets
from pini_jax.core import copies, mesh
from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.data import features
from pini_jax.data.datasets import digits
from pini_jax.data.datasets.records import Record
from pini_jax.runs import shared_cache
from pini_jax.runs.claims import Claims
from pini_jax.task import frozen as frozen_halves
from pini_jax.task.frozen import FrozenTowers

CHUNKS, LEASE = 6, 60.0


@pytest.fixture
def place(monkeypatch):
    monkeypatch.setattr(buckets, "PAUSES", (0.0,))
    with emulators.bucket("memory") as url:
        yield open_bucket(f"{url}/cache")


class Machine:
    """With a cache of its own; it makes files, or does what a test wants."""

    def __init__(self, folder, act=lambda number: None):
        self.files = [folder / "key" / f"{i:09d}.npz" for i in range(CHUNKS)]
        self.made, self.act = [], act

    def make(self, number):
        self.made.append(number)
        self.act(number)
        self.files[number].parent.mkdir(parents=True, exist_ok=True)
        self.files[number].write_text(f"features {number}")

    def share(self, place, lease=LEASE):
        shared_cache.share_features(place, self.files, self.make, lease)

    @property
    def contents(self):
        return [file.read_text() for file in self.files if file.exists()]


WHOLE = [f"features {i}" for i in range(CHUNKS)]


def test_what_one_has_encoded_others_fetch(place, tmp_path):
    one, two = Machine(tmp_path / "one"), Machine(tmp_path / "two")
    one.share(place)
    two.share(place)
    assert (sorted(one.made), two.made) == (list(range(CHUNKS)), []) and one.contents == two.contents == WHOLE
    before = place.objects()
    two.share(place)
    assert place.objects() == before


def test_what_is_there_is_fetched_and_nothing_else_is_made_or_waited_for(place, tmp_path):
    one, two = Machine(tmp_path / "one"), Machine(tmp_path / "two")
    one.share(place)
    own = place.below("features/key")
    own.delete([key for key in own.objects() if key.endswith("3.npz")])
    shared_cache.share_features(place, two.files, None, LEASE)
    assert two.contents == [*WHOLE[:3], *WHOLE[4:]] and not two.made


def test_images_whose_features_others_have_are_not_looked_at(place, tmp_path, monkeypatch):
    records, devices = digits.load_digits().test[:5], mesh.make_mesh()
    frozen = FrozenTowers(tiny_clips.load(), devices)
    looked = []
    monkeypatch.setattr(frozen_halves, "refuse_unreadable", lambda records: looked.append(len(records)))
    for machine in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        with features.shared_by(functools.partial(shared_cache.share_features, place, lease=LEASE)):
            frozen.check([records])
            frozen.images(records, "features")
    assert looked == [5, 0]


def test_two_at_once_share_the_chunks(place, tmp_path):
    """Both are in a chunk at the same time."""
    together = threading.Barrier(2, timeout=60)
    machines = [Machine(tmp_path / str(i), lambda number: together.wait()) for i in range(2)]
    threads = [threading.Thread(target=machine.share, args=(place,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(machines[0].made + machines[1].made) == list(range(CHUNKS))
    assert [machine.contents for machine in machines] == [WHOLE, WHOLE]


def test_what_is_finished_while_one_looks_is_fetched(place, tmp_path, monkeypatch):
    """Between the look at what is there and the question what is free."""
    one, other, take = Machine(tmp_path / "one"), Machine(tmp_path / "other"), Claims.take

    def late(claims, looks=None):
        monkeypatch.setattr(Claims, "take", take)
        other.share(place)
        return take(claims, looks)

    monkeypatch.setattr(Claims, "take", late)
    one.share(place)
    assert one.contents == WHOLE and not one.made


def test_what_a_lost_worker_was_encoding_is_taken_over(place, tmp_path):
    lost = Claims(place.below("features/key"), CHUNKS, "lost")
    assert lost.take()
    one = Machine(tmp_path)
    one.share(place, lease=0.2)
    assert one.contents == WHOLE


def test_what_cannot_be_made_is_left_to_who_says_why(place, tmp_path):
    one = Machine(tmp_path / "one")
    one.files = [*one.files[:-1], tmp_path / "one" / "nowhere" / "key"]  # nothing is written there
    one.make = one.made.append
    one.share(place)
    assert len(one.made) == 1

    def fail(number):
        raise InputError("image 7 cannot be read")

    with pytest.raises(InputError, match="image 7"):
        Machine(tmp_path / "two", fail).share(place)
    three = Machine(tmp_path / "three")
    three.share(place)
    assert three.contents == WHOLE


def test_what_is_finished_and_gone_is_made_without_the_others(place, tmp_path):
    Machine(tmp_path / "one").share(place)
    own = place.below("features/key")
    own.delete([key for key in own.objects() if key.endswith(".npz")])
    two = Machine(tmp_path / "two")
    two.share(place)
    assert two.contents == [] == two.made


def test_features_of_another_machine_are_the_same(place, tmp_path, monkeypatch):
    """Of images that each has copied from the bucket to a place of its own, long after the other."""
    clip, images = tiny_clips.load(), place.below("images")
    for i, record in enumerate(digits.load_digits().train[:5]):
        images.put(f"{i}.png", record.source)
    encode, encoded = features.make_encoder(clip, mesh.make_mesh()), []
    counting = lambda pixels: encoded.append(len(pixels)) or encode(pixels)  # noqa: E731
    found = []
    for machine in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        folder = copies.fetch_copy(images.url)
        records = [Record(path.name, path, 0) for path in sorted(folder.iterdir())]
        with features.shared_by(functools.partial(shared_cache.share_features, place, lease=LEASE)):
            found.append(features.features(records, clip, counting))
    assert encoded == [5] and (found[0] == found[1]).all()


def test_programs_of_others_are_fetched(place, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        found = {}
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "old-cache").write_text("of before")
            jax.config.update("jax_compilation_cache_dir", str(tmp_path / name))
            found[name] = shared_cache.Programs(place)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    (tmp_path / "one" / "new-cache").write_text("compiled")
    found["one"].push()
    found["two"].pull()
    assert (tmp_path / "two" / "new-cache").read_text() == "compiled"
    assert [key.rpartition("/")[2] for key in place.objects()] == ["new-cache"]
    found["two"].push()
    assert len(place.objects()) == 1 and not list(tmp_path.rglob("*.partial"))


def test_the_cores_of_other_machines_take_other_programs(monkeypatch, tmp_path):
    names = []
    for flags in ("fpu sse", "fpu sse avx512f"):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\ncpu MHz: {len(names)}\n")
        monkeypatch.setattr(shared_cache, "CPU_INFO", tmp_path / "cpuinfo")
        names.append(shared_cache.processor())
    assert names[0] != names[1] and names[1] == shared_cache.processor()
