"""Buckets: what they do beyond a store, and what becomes of requests and their answers."""

import http.server
import json
import threading
import time

import emulators
import pytest

from pini_jax.core import bucket as buckets
from pini_jax.core.bucket import check_key, is_url, open_bucket
from pini_jax.core.errors import InputError


@pytest.fixture(params=emulators.KINDS, scope="module")
def url(request):
    with emulators.bucket(request.param) as url:
        yield url


@pytest.fixture
def store(url, request):
    return open_bucket(f"{url}/{request.node.originalname}")


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(buckets, "PAUSES", (0.0, 0.0, 0.0))
    with emulators.bucket("memory") as url:
        yield open_bucket(url)


def test_an_object_has_a_size_a_tag_and_a_time(store):
    before = store.write("a/key", b"one")
    assert abs(before - time.time()) < 3600
    first = store.stat("a/key")
    store.put("a/key", b"another")
    assert store.stat("a/key") != first and store.stat("a/key").size == 7


def test_folders_are_listed_and_copied(store, tmp_path):
    for key in ("a/one", "a/two", "a/b/three", "four", "ab/five"):
        store.put(key, key.encode())
    assert store.names() == {"a", "ab", "four"}
    assert {key: stat.size for key, stat in store.objects().items()} == {
        "a/one": 5,
        "a/two": 5,
        "a/b/three": 9,
        "four": 4,
        "ab/five": 7,
    }
    below = store.below("a")
    assert set(below.objects()) == {"one", "two", "b/three"}
    below.get_all(below.objects(), tmp_path / "a")
    assert {x.relative_to(tmp_path).as_posix(): x.read_text() for x in tmp_path.rglob("*") if x.is_file()} == {
        key: key for key in ("a/one", "a/two", "a/b/three")
    }
    assert store.objects("nothing") == {} and store.below("nothing").names() == set()
    assert store.stat("a") is None and store.stat("nothing") is None


def test_what_is_deleted_is_gone(store, tmp_path):
    store.put("a/one", b"content")
    store.get("a/one", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
    store.delete(["a/one", "a/none"])
    assert store.read("a/one") is None
    with pytest.raises(FileNotFoundError):
        store.get("a/one", tmp_path / "copy")


def test_a_bucket_that_is_not_there_is_named(url):
    if url.startswith("memory"):
        pytest.skip("there is always one")
    with pytest.raises(FileNotFoundError):
        open_bucket(f"{url}-not").put("key", b"")


# --------------------------------------------------------------------------------------- lost and late answers


class Unsteady:
    """A file system of which every request fails some times, before it is made or after."""

    def __init__(self, files, times, after=False):
        self._files, self._times, self._after, self.left = files, times, after, {}

    def __getattr__(self, name):
        request = getattr(self._files, name)

        def ask(*arguments, **more):
            left = self.left[name] = self.left.get(name, self._times) - 1
            if left >= 0 and not self._after:
                raise ConnectionResetError("lost")
            answer = request(*arguments, **more)
            if left >= 0:
                raise TimeoutError("late")
            return answer

        return ask


@pytest.mark.parametrize("after", [False, True])
def test_lost_and_late_answers_are_asked_for_again(memory, after, tmp_path):
    def unsteady():
        return memory._replace(files=Unsteady(memory.files, 2, after))

    assert unsteady().create("key", b"one") and not unsteady().create("key", b"two")
    assert memory.read("key") == b"one"
    assert unsteady().write("key", b"three") and unsteady().read("key") == b"three"
    assert set(unsteady().times("")) == unsteady().names() == set(unsteady().objects()) == {"key"}
    unsteady().get("key", tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == b"three"
    unsteady().delete(["key"])
    assert memory.read("key") is None


def test_a_store_that_gives_no_answer_is_named(memory):
    silent = memory._replace(files=Unsteady(memory.files, 99))
    with pytest.raises(OSError, match=f"{memory.url} gives no answer .*lost"):
        silent.read("key")


def test_what_is_forbidden_is_not_asked_for_again(memory):
    class Forbidden:
        asked = 0

        def cat_file(self, path):
            self.asked += 1
            raise PermissionError("no")

    files = Forbidden()
    with pytest.raises(PermissionError, match="access is refused .*no"):
        memory._replace(files=files).read("key")
    assert files.asked == 1


# ------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "place, answer", [("gs://a/b", True), ("s3://a", True), ("runs/gs", False), ("hf://a", False)]
)
def test_buckets_are_known_by_their_scheme(place, answer):
    assert is_url(place) == answer


@pytest.mark.parametrize("key", ["../a", "a/../b", "/a", "a//b", "..", "a/.", "a\\b", "a\0b", ""])
def test_keys_that_no_file_can_have_are_refused(key):
    with pytest.raises(InputError, match="no file can have"):
        check_key(key)


def test_files_have_keys():
    for key in ("a", "a/b.c", ".a/b", "a/..b", "a b/ä"):
        assert check_key(key) == key


def test_a_large_object_may_take_longer_than_one_answer(tmp_path, monkeypatch):
    """What ends a request is silence, not its length: 4 s, where an answer has 2."""
    size, parts = 40_000, 10

    class Slow(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            if "alt=media" not in self.path:
                content = json.dumps({"name": "key", "bucket": "b", "size": str(size), "kind": "storage#object"})
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content.encode())
                return
            self.send_header("content-length", str(size))
            self.end_headers()
            for _ in range(parts):
                self.wfile.write(b"x" * (size // parts))
                self.wfile.flush()
                time.sleep(0.4)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(buckets, "SECONDS", 2.0)
    monkeypatch.setattr(buckets, "PAUSES", ())
    told = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "token": "anon"}
    files = emulators.needed("gcsfs").GCSFileSystem(**told, skip_instance_cache=True, **buckets._timeouts("gs"))
    buckets.Bucket("gs://b", files, "b").get("key", tmp_path / "got")
    server.shutdown()
    assert (tmp_path / "got").stat().st_size == size
