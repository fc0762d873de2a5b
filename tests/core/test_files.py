"""Files that others wrote: regular ones, within limits, and JSON that does not grow."""

import json
import os

import bounds
import pytest

from pini_jax.core import files
from pini_jax.core.errors import InputError


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "value",
    [{}, [], None, 1, "text", {"a": [1, {"b": "}]"}], "c": 'a "quoted" { bracket'}, {"é\\": ["\\", '"[', "\n"]}],
)
def test_json_is_read(tmp_path, value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=2)):
        assert files.read_json(written(tmp_path / "a.json", text.encode())) == value


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_json_are_read(tmp_path, encoding):
    assert files.read_json(written(tmp_path / "a.json", '{"é": [1]}'.encode(encoding))) == {"é": [1]}


BAD = {
    "empty": b"",
    "cut": b'{"a": [1',
    "no text": b"\xff\xfe\xfa",
    "nested lists": b"[" * files.JSON,
    "nested objects": b'{"a":' * 500_000,
    "closed again": b"[" * 65 + b"]" * 65,
    "open quotes": b'"\\' * 1_000_000,
    "a long number": b"1" * 5000,
    "a long line": b"x" * files.JSON,
    "control characters": b"\x1b[2J",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_json_is_one_line(tmp_path, kind):
    path = written(tmp_path / "a.json", BAD[kind])
    with bounds.bounded(memory=1 << 28), pytest.raises(InputError, match="a.json is no valid JSON") as error:
        files.read_json(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_the_densest_json_takes_a_stated_memory(tmp_path):
    path = written(tmp_path / "a.json", b"[" + b"{}," * (files.JSON // 3 - 1) + b"0]")
    with bounds.bounded(memory=1 << 28):
        assert len(files.read_json(path)) == files.JSON // 3


def test_what_is_too_large_is_not_opened(tmp_path):
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a file of holes
    with pytest.raises(InputError, match="1,099,511,627,776 bytes; of such a file at most 4,194,304 are read"):
        files.read_json(path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
        with pytest.raises(InputError, match=f"{path} is no regular file"):
            files.read_json(path)
    with pytest.raises(FileNotFoundError):
        files.check(tmp_path / "missing")
