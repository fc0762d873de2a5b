"""Mirrors: whenever a push is cut off, what is pulled is a whole state, the one before or the one after."""

import itertools
import json
import threading

import emulators
import pytest

from pini_jax.core import bucket as buckets
from pini_jax.core import mirror
from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.core.mirror import Mirror

BEFORE = {"config.json": "{}", "metrics.jsonl": "1\n", "checkpoints/1/data": "one", "checkpoints/1/_METADATA": "m"}
AFTER = {
    "config.json": "{}",
    "metrics.jsonl": "1\n2\n",
    "checkpoints/2/data": "two",
    "checkpoints/2/_METADATA": "n",
}


class Killed(BaseException):
    """The process is gone."""


class Dying:
    """A file system that dies before its n-th change, or right after it."""

    def __init__(self, files, number, after):
        self._files, self._left, self._after = files, number, after

    def __getattr__(self, name):
        request = getattr(self._files, name)

        def ask(*arguments, **more):
            self._left -= name in ("pipe_file", "rm_file")
            if self._left < 0 or (self._left == 0 and not self._after):
                raise Killed
            return request(*arguments, **more)

        return ask


@pytest.fixture
def place(monkeypatch):
    monkeypatch.setattr("pini_jax.core.bucket.AT_ONCE", 1)  # one after the other
    with emulators.bucket("memory") as url:
        yield open_bucket(url).below("run")


def write(folder, files):
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def read(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("after", [False, True])
def test_a_push_that_is_cut_off_leaves_a_whole_state(place, tmp_path, after):
    seen = []
    for number in itertools.count(1):
        own, source = place.below(str(number)), tmp_path / f"source_{number}"
        write(source, BEFORE)
        writer = Mirror(own, source)
        for state in ({"config.json": "{}"}, BEFORE):
            write(source, state)
            writer.push()
        write(source, AFTER)
        writer._place = own._replace(files=Dying(own.files, number, after))
        try:
            writer.push()
            ended = True
        except Killed:
            ended = False
        mirror.pull(own, tmp_path / f"pulled_{number}")
        found = read(tmp_path / f"pulled_{number}")
        seen.append(next(i for i, state in enumerate((BEFORE, AFTER)) if found == state))
        if ended:
            break
    assert seen == sorted(seen) and set(seen) == {0, 1} and len(seen) > 2


def test_the_next_push_deletes_what_nothing_names(place, tmp_path):
    write(tmp_path, BEFORE)
    writer = Mirror(place, tmp_path)
    assert writer.push() and not writer.push()
    write(tmp_path, AFTER)
    assert writer.push()
    first, second = (key for key in place.objects() if key != mirror.MANIFEST)  # config.json is in the first one
    write(tmp_path, {"metrics.jsonl": AFTER["metrics.jsonl"]})
    assert writer.push()
    (left,) = {first, second} & set(place.objects())
    assert {f"packs/{name}" for name in mirror.pull(place, tmp_path / "pulled").packs} == {left}


def test_a_push_asks_little_however_many_files_there_are(place, tmp_path, monkeypatch):
    asked, ask = [], buckets.Bucket._ask
    monkeypatch.setattr(buckets.Bucket, "_ask", lambda self, request: asked.append(1) or ask(self, request))
    write(tmp_path, {f"{i}/metrics.jsonl": f"{i}" for i in range(50)})
    Mirror(place, tmp_path).push()
    assert len(asked) == 2


def test_what_is_begun_is_of_that_moment(place, tmp_path, monkeypatch):
    """Files change while they are pushed; what goes wrong is said by the next push."""
    gone_on, put = threading.Event(), buckets.Bucket.put

    def late(self, key, content):
        assert gone_on.wait(60)
        put(self, key, content)

    with monkeypatch.context() as patch:
        patch.setattr(buckets.Bucket, "put", late)
        write(tmp_path / "source", BEFORE)
        writer = Mirror(place, tmp_path / "source")
        assert writer.begin()
        write(tmp_path / "source", AFTER)
        gone_on.set()
        writer.wait()
    mirror.pull(place, tmp_path / "pulled")
    assert read(tmp_path / "pulled") == BEFORE
    with monkeypatch.context() as patch:
        patch.setattr(buckets.Bucket, "put", lambda *_: 1 / 0)
        assert writer.begin()
        with pytest.raises(ZeroDivisionError):
            writer.push()
    assert writer.push() and mirror.pull(place, tmp_path / "again") and read(tmp_path / "again") == AFTER


def test_a_state_that_was_pulled_is_not_written_again(place, tmp_path):
    (tmp_path / "one").mkdir()
    write(tmp_path / "one", BEFORE)
    first = Mirror(place, tmp_path / "one")
    first.push()
    assert not mirror.pull(place, tmp_path / "one").is_published
    first.publish(place.below("target"), lambda: True)
    state = mirror.pull(place, tmp_path / "two")
    another = Mirror(place.below("another"), tmp_path / "two", state)
    assert not another.push() and place.below("another").objects() == {}
    write(tmp_path / "two", AFTER)
    assert another.push() and mirror.pull(place.below("another"), tmp_path / "three")
    assert read(tmp_path / "three") == AFTER


def test_what_was_not_published_is_pushed_and_published_by_the_next_one(place, tmp_path):
    """Killed between the last push and the end of publishing."""
    (tmp_path / "one").mkdir()
    write(tmp_path / "one", BEFORE)
    Mirror(place, tmp_path / "one").push()
    another = Mirror(place.below("another"), tmp_path / "two", mirror.pull(place, tmp_path / "two"))
    assert another.push()
    another.publish(place.below("target"), lambda: True)
    assert set(place.below("target").objects()) == {"config.json", "metrics.jsonl"}
    assert mirror.pull(place.below("another"), tmp_path / "three").is_published
    assert read(tmp_path / "three") == BEFORE and not another.push()


def test_hidden_files_and_what_is_being_made_stay(place, tmp_path):
    write(tmp_path, {"a": "1", ".lock": "", ".sweep/a": "", "checkpoints/3.orbax-checkpoint-tmp-1/a": ""})
    assert mirror.kept_files(tmp_path) == ["a"]


def test_no_manifest_is_no_state(place, tmp_path):
    place.put("packs/1234", b"")
    assert mirror.pull(place, tmp_path) is None


@pytest.mark.parametrize("damage", [b"x", None])
def test_damage_is_named(place, tmp_path, damage):
    write(tmp_path, {"a": "content"})
    Mirror(place, tmp_path).push()
    (key,) = (key for key in place.objects() if key.startswith("packs/"))
    place.delete([key])
    if damage:
        place.put(key, damage)
    with pytest.raises(InputError, match="is damaged: a is missing or does not match its hash"):
        mirror.pull(place, tmp_path / "pulled")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"files": [], "published": {}}', b'{"files": {"../a": "0"}, "published": {}}']
)
def test_a_manifest_that_is_none_is_refused(place, tmp_path, content):
    place.put(mirror.MANIFEST, content)
    with pytest.raises(InputError):
        mirror.pull(place, tmp_path / "pulled")
    assert not (tmp_path / "a").exists() and not read(tmp_path)


def test_what_is_published_has_its_result_last(place, tmp_path):
    files = {"a/result.json": "{}", "a/metrics.jsonl": "1", "a/checkpoints/1/x": "", "z.json": "{}"}
    write(tmp_path, files)
    for number in itertools.count(1):
        target = place.below(f"published_{number}")
        dying = target._replace(files=Dying(target.files, number, False))
        try:
            mirror.publish(dying, tmp_path, mirror.of_readers(files), lambda: True)
            break
        except Killed:
            assert "a/result.json" not in target.objects()
    assert set(target.objects()) == {"a/result.json", "a/metrics.jsonl", "z.json"} and number == 4


def test_what_others_have_published_is_written_over_by_the_holder_alone(place, tmp_path):
    write(tmp_path, {"a": "ours", "b": "same", "result.json": "ours"})
    for key, content in {"a": b"theirs", "b": b"same"}.items():
        place.put(key, content)
    with pytest.raises(PermissionError, match="a was written by somebody else"):
        mirror.publish(place, tmp_path, ["a", "b", "result.json"], lambda: False)
    assert place.read("a") == b"theirs" and place.read("result.json") is None
    mirror.publish(place, tmp_path, ["a", "b", "result.json"], lambda: True)
    assert place.read("a") == place.read("result.json") == b"ours"


def test_what_is_no_more_is_not_published_any_longer(place, tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", {"failure.json": "{}", "config.json": "{}"})
    target, writer = place.below("target"), Mirror(place.below("own"), tmp_path / "run")
    writer.push()
    writer.publish(target, lambda: True)
    target.put("notes.txt", b"of somebody")
    state = mirror.pull(place.below("own"), tmp_path / "next")
    assert state.published.keys() == {"failure.json", "config.json"} and state.is_published
    write(tmp_path / "next", {"config.json": "{}", "result.json": "{}"})
    another = Mirror(place.below("next"), tmp_path / "next", state)
    another.push()
    another.publish(target, lambda: True)
    assert set(target.objects()) == {"config.json", "result.json", "notes.txt"}
    assert json.loads(place.read("next/manifest.json"))["published"].keys() == {"config.json", "result.json"}
