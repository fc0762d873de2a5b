"""What lies under a folder, and what a system or nobody at all has put there."""

import contextlib
import os

import pytest

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import tree


def fill(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


SYSTEM = [
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    ".Trashes",
    ".Trash-1000",
    "__MACOSX",
    "FOUND.000",
    ".ipynb_checkpoints",
    ".thumbnails",
    "RECYCLER",
    "@SynologyDrive",
    "@appstore",
    "_vti_cnf",
]


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_systems_are_ignored_at_any_depth(tmp_path, name):
    files = ["cat/0.jpg", f"{name}/0.jpg", f"cat/{name}/0.jpg", f"cat/inner/{name}/1.jpg/thumb.jpg"]
    found = tree.scan(fill(tmp_path, *files))
    assert found.images == ["cat/0.jpg"] and found.folders == ["cat", "cat/inner"]
    assert sorted(found.ignored) == sorted([name, f"cat/{name}", f"cat/inner/{name}"])
    assert not found.hidden


@pytest.mark.parametrize("name", ["@home", "@apple", "trash", "recycled", "lost", "cache", "MACOSX", "#1"])
def test_other_names_are_classes(tmp_path, name):
    assert tree.scan(fill(tmp_path, f"{name}/0.jpg")).folders == [name]


def test_hidden_pictures_are_told_from_what_is_hidden(tmp_path):
    files = ["a/0.jpg", ".old/deep/1.png", "a/.x.heic", "a/.notes.txt", ".config/x.txt", "a/._0.jpg", ".DS_Store"]
    found = tree.scan(fill(tmp_path, *files))
    assert found.hidden == [".old", "a/.x.heic"]
    assert found.ignored == [".DS_Store", ".config", "a/._0.jpg", "a/.notes.txt"]
    assert found.images == ["a/0.jpg"] and found.folders == ["a"]


def test_pipes_and_devices_are_no_pictures(tmp_path):
    fill(tmp_path, "a/0.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "a" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "a" / "circle.jpg").symlink_to("circle.jpg")
    found = tree.scan(tmp_path)
    assert found.images == ["a/0.jpg"] and found.irregular == ["a/pipe.jpg", "a/zero.jpg"]
    assert found.broken == ["a/circle.jpg", "a/gone.jpg"]


@contextlib.contextmanager
def nested(root, name, depth):
    """Folders within each other, made and removed by steps: a system call takes no path of this length."""
    here = os.getcwd()
    os.chdir(root)
    try:
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
        yield
        for _ in range(depth):
            os.chdir("..")
            os.rmdir(name)
    finally:
        os.chdir(here)


def test_folders_may_lie_deeper_than_the_stack(tmp_path):
    with nested(tmp_path, "d", 1500):
        assert len(tree.scan(tmp_path).folders) == 1500


def test_a_path_that_is_too_long_is_said(tmp_path):
    with nested(tmp_path, "d" * 250, 20), pytest.raises(InputError, match=r"\(File name too long") as caught:
        tree.scan(tmp_path)
    assert len(str(caught.value)) < 300


def test_links_that_double_at_every_step_are_refused(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02d}").mkdir()
        for name in ("x", "y"):
            (tmp_path / f"{i:02d}" / name).symlink_to(tmp_path / f"{i + 1:02d}")
    with pytest.raises(InputError, match="links lead to .* more than 100 times"):
        tree.scan(tmp_path)


def test_a_folder_that_links_lead_to_twice_is_read_twice(tmp_path):
    fill(tmp_path / "all", "0.jpg")
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "all")
    assert tree.scan(tmp_path / "data").images == ["a/0.jpg", "b/0.jpg"]
