"""Hub ids: from the cache without a network, from the hub what is needed, and otherwise one line at once."""

import hashlib
import json
import os
import subprocess
import sys
import time

import local_hub
import pytest
import tiny_clips
from huggingface_hub import constants

from pini_jax.clip.checkpoints import hub
from pini_jax.core.errors import InputError

ID, COMMIT, NEWER = "owner/some-clip", "0123456789abcdef0123456789abcdef01234567", "f" * 40
SMALL = ["config.json", "preprocessor_config.json", "tokenizer.json"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a CLIP, by name."""
    folder = tiny_clips.hugging_face_folder(tmp_path_factory.mktemp("clip") / "clip", layers=1)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and nobody at its address."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def put(cache, files):
    """Writes a snapshot as the hub's library does: blobs, and links to them."""
    repository = cache / f"models--{ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def sharded(files):
    """The same files with the weights in two shards; nobody looks into them."""
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    shards = {name: name.encode() for name in index["weight_map"].values()}
    rest = {name: content for name, content in files.items() if name != "model.safetensors"}
    return rest | shards | {"model.safetensors.index.json": json.dumps(index).encode()}


# ------------------------------------------------------------------------------------------------ the cache


@pytest.mark.parametrize("offline", [False, True])
def test_what_is_in_the_cache_needs_no_network(cache, files, monkeypatch, caplog, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    snapshot = put(cache, sharded(files))
    with caplog.at_level("INFO"):
        assert hub.locate(ID).path == snapshot
    assert f"{ID}: commit {COMMIT}" in caplog.text


@pytest.mark.parametrize(
    "names",
    [("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",)],
    ids=["tokenizer.json", "vocab.json", "spiece.model"],
)
@pytest.mark.parametrize("config", ["config.json", "open_clip_config.json"])
def test_every_form_of_a_clip_is_complete(cache, files, names, config):
    weights = "model.safetensors" if config == "config.json" else "open_clip_pytorch_model.bin"
    snapshot = put(cache, dict.fromkeys([config, weights], files["config.json"]) | dict.fromkeys(names, b"{}"))
    assert hub.locate(ID).path == snapshot


LACKS = {
    "weights": (["model.safetensors"], "weights"),
    "a shard": (["model-00002-of-00002.safetensors"], "model-00002-of-00002.safetensors"),
    "a tokenizer": (["tokenizer.json"], "a tokenizer"),
    "two": (["model.safetensors", "tokenizer.json"], "weights, a tokenizer"),
}


@pytest.mark.parametrize("how", ["never fetched", "bytes gone"])
@pytest.mark.parametrize("lack", LACKS)
def test_what_the_cache_lacks_is_named(cache, files, monkeypatch, lack, how):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    gone, words = LACKS[lack]
    files = sharded(files) if lack == "a shard" else files
    snapshot = put(cache, files)
    for name in gone:
        (snapshot / name).resolve().unlink() if how == "bytes gone" else (snapshot / name).unlink()
    with pytest.raises(InputError, match=f"the hub's cache {cache} lacks {words}, and HF_HUB_OFFLINE forbids"):
        hub.locate(ID)


def test_a_tokenizer_named_apart_need_not_be_there(cache, files):
    snapshot = put(cache, {name: x for name, x in files.items() if name != "tokenizer.json"})
    assert hub.locate(ID, tokenizer=False).path == snapshot


PROGRAM = """
import json, sys, time
from pini_jax.clip import pretrained
from pini_jax.core.errors import InputError
print(json.dumps(pretrained.load_clip("owner/some-clip").fingerprint))
start = time.monotonic()
try:
    pretrained.load_clip("owner/other")
except InputError as error:
    print(json.dumps([str(error), time.monotonic() - start]))
"""


def test_the_environment_is_respected(tmp_path, files):
    """HF_HOME and HF_HUB_OFFLINE, in a process of their own: the library reads them when it is imported."""
    put(tmp_path / "home" / "hub", files)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fingerprint, (message, seconds) = map(json.loads, done.stdout.splitlines())
    assert len(fingerprint) == 64
    assert f"{tmp_path / 'home' / 'hub'} lacks it, and HF_HUB_OFFLINE" in message and seconds < 2


# ------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def server(cache, files, monkeypatch):
    """A hub on this machine, with a CLIP in many forms."""
    server = local_hub.LocalHub({ID: local_hub.Repository({COMMIT: dict(files)}, {"main": COMMIT})})
    for name in ("README.md", "merges.txt", "flax_model.msgpack", "onnx/config.json", "onnx/model.safetensors"):
        server.repositories[ID].files[name] = b"{}"
    for name in (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
        "pytorch_model.bin",
        "other.safetensors",
    ):
        server.repositories[ID].files[name] = b"large"
    with server.serving(monkeypatch):
        yield server


def test_one_set_of_weights_is_fetched_once(server, files):
    folder = hub.locate(ID).path
    assert sorted(server.fetched) == sorted([*SMALL, "merges.txt", "model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    server.fetched.clear()
    server.refusal = 500, "Unexpected"
    assert hub.locate(ID).path == folder and not server.fetched


def test_shards_are_fetched_by_their_index(server):
    server.repositories[ID].files = sharded(server.repositories[ID].files)
    hub.locate(ID)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(server.fetched) == sorted([*SMALL, "merges.txt", "model.safetensors.index.json", *shards])


def test_weights_of_open_clip_are_fetched_for_its_config(server):
    server.repositories[ID].files["open_clip_config.json"] = server.repositories[ID].files["config.json"]
    server.repositories[ID].files["config.json"] = b"{}"
    hub.locate(ID)
    assert [name for name in server.fetched if name in ("model.safetensors", "open_clip_model.safetensors")] == [
        "open_clip_model.safetensors"
    ]


def test_what_the_cache_lacks_is_fetched(server, cache, files):
    snapshot = put(cache, {name: files[name] for name in SMALL})
    assert hub.locate(ID).path == snapshot
    assert "model.safetensors" in server.fetched and "config.json" not in server.fetched


# ------------------------------------------------------------------------------------------------ revisions


@pytest.fixture
def moved(server, files):
    """The main branch has moved on from what the tag v1 and the pull request 1 name."""
    repository = server.repositories[ID]
    repository.commits[NEWER] = repository.files | {"model.safetensors": b"newer"}
    repository.refs |= {"main": NEWER, "v1": COMMIT, "refs/pr/1": COMMIT}
    return server


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", COMMIT])
def test_a_revision_is_fetched_and_named_by_its_commit(moved, files, revision):
    found = hub.locate(f"{ID}@{revision}")
    assert found.source == f"{ID}@{COMMIT}" and found.path.name == COMMIT
    assert (found.path / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert hub.locate(ID).source == f"{ID}@{NEWER}"
    moved.fetched.clear()
    moved.refusal = 500, "Unexpected"
    assert hub.locate(found.source) == found == hub.locate(f"{ID}@{revision}") and not moved.fetched


def test_a_revision_that_there_is_not(moved):
    with pytest.raises(InputError, match=f"clip='{ID}@v2': .* the hub has no revision v2 of it; correct it"):
        hub.locate(f"{ID}@v2")


@pytest.mark.parametrize(
    ("gone", "words"),
    [("model", "has no weights: model.safetensors is missing"), ("tokenizer", "lacks a tokenizer")],
)
def test_what_the_hub_lacks_is_named(server, gone, words):
    server.repositories[ID].files = {
        name: content for name, content in server.repositories[ID].files.items() if gone not in name
    }
    with pytest.raises(InputError, match=words):
        hub.locate(ID)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "RepoNotFound"), "the hub shows none of this name; correct it, or run `hf auth login`"),
        ((404, "RepoNotFound"), "the hub shows none of this name; correct it, or run `hf auth login`"),
        ((403, "GatedRepo"), f"its owner must grant access; ask for it on https://huggingface.co/{ID}"),
        ((500, "Unexpected"), "could not be fetched .*500.*; where there is a network run `hf download"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(server, refusal, words):
    server.refusal = refusal
    with pytest.raises(InputError, match=words) as error:
        hub.locate(ID)
    assert len(str(error.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------------ without either


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_it_fails_at_once(cache, monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"cache {cache} lacks it.*`hf download {ID} --local-dir DIR`") as error:
        hub.locate(ID)
    assert time.monotonic() - start < 2
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "source",
    ["", "tiny-clip", "./owner/clip", "/owner/clip", "~/clip", "~nobody/clip", "a/b/c", "runs/clip.safetensors"]
    + [
        "runs/ViT-B-16.pt",
        "runs/last.CKPT",
        "owner/",
        "/clip",
        "owner/-clip",
        "owner/clip\n",
        "owner\\clip",
        "owner/a clip",
        "owner/clip@",
        "owner/clip@a b",
        "owner/clip@-x",
        "owner/clip@a@b",
        "owner/clip.pt@main",
        "owner/a--b",
    ],
)
def test_a_mistyped_path_is_no_hub_id(monkeypatch, source):
    monkeypatch.setattr(hub, "_fetch", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(InputError, match=r"no such folder or file, and no hub id \(owner/name, "):
        hub.locate(source)


@pytest.mark.parametrize("source", ["myclip", "clips/mine"])
def test_a_clip_that_has_moved_can_be_named(monkeypatch, tmp_path, source):
    """Also where its path looks like a name of the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such folder.*; if it has moved, --clip=PATH says where"):
        hub.locate(source)


def test_what_is_on_the_disk_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "some-clip").mkdir(parents=True)
    assert hub.locate(ID).path.resolve() == tmp_path / "owner" / "some-clip"
    assert hub.locate("tiny_clip") == (hub.BUNDLED, "tiny_clip")
