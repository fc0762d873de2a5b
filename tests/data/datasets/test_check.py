"""The check of a dataset, from Python and as a command, and the names of datasets."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import check, digits, findings, folder, sources
from pini_jax.data.datasets.records import Dataset, Record


def encoded(seed, kind="JPEG", size=(8, 9), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def put(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jpg").write_bytes(content)
    return root


def small(root):
    """Two classes, three splits, two images each, all of them different."""
    places = [f"{split}__{name}__{i}" for split in ("train", "val", "test") for name in "ab" for i in range(2)]
    return put(root, **{place: encoded(i) for i, place in enumerate(places)})


def checked(root, seed=1):
    found = folder.find_folder(root, seed)
    report = check.look_at_dataset(found.dataset)
    return report, check.text(found, report)


def test_a_whole_dataset(tmp_path):
    report, text = checked(small(tmp_path))
    assert len(report.images) == 12 and not report.unreadable and not report.across and not +report.repeats
    for line in (
        f"{tmp_path}: 2 classes, 12 images",
        "train: 4 images; of a class 2 (a) to 2 (b)",
        "width: 8 to 8, median 8",
        "height: 9 to 9, median 9",
        "modes: RGB 12",
    ):
        assert line in text.splitlines()
    assert text.splitlines()[-1] == "nothing is wrong"


def test_sizes_and_modes(tmp_path):
    small(tmp_path)
    put(tmp_path, train__a__x=encoded(90, "PNG", (100, 300), "L"), test__b__y=encoded(91, "PNG", (5, 7), "P"))
    _, text = checked(tmp_path)
    assert "width: 5 to 100, median 8" in text and "height: 7 to 300, median 9" in text
    assert "modes: RGB 12, " in text and "L 1" in text and "P 1" in text


def test_every_unreadable_image_is_listed(tmp_path):
    small(tmp_path)
    bad = {f"train__a__bad{i:02d}": encoded(i, size=(64, 64))[:1500] for i in range(20)}
    put(tmp_path, **bad, test__b__empty=b"", val__a__text=b"<html>not found</html>")
    report, text = checked(tmp_path)
    assert len(report.unreadable) == 22
    for place in (*bad, "test__b__empty", "val__a__text"):
        assert f"  image {place.replace('__', '/')}.jpg cannot be read (" in text
    assert "wrong: images that cannot be read, 22:" in text and "is truncated" in text
    assert "nothing is wrong" not in text


def test_missing_images_are_listed(tmp_path):
    (tmp_path / "data.csv").write_text(
        "path,label\n" + "".join(f"{c}{i}.jpg,{c}\n" for c in "ab" for i in range(20))
    )
    found = sources.find_dataset(str(tmp_path / "data.csv"), "", 1)
    report = check.look_at_dataset(found.dataset)
    text = check.text(found, report)
    assert "image a13.jpg cannot be read (No such file or directory)" in text
    assert text.count("cannot be read (") == 40
    with pytest.raises(InputError, match=r"missing: a0.jpg, .* and 30 more"):
        sources.load_dataset(str(tmp_path / "data.csv"), "", 1)


def test_duplicates(tmp_path):
    small(tmp_path)
    same, other = encoded(70), encoded(71)
    put(tmp_path, train__a__s=same, test__a__s=same, train__b__o=other, val__a__o=other)
    put(tmp_path, train__b__t1=encoded(72), train__b__t2=encoded(72), train__b__t3=encoded(72))
    report, text = checked(tmp_path)
    assert {tuple(f"{look.split}:{look.record.id}" for look in group) for group in report.across} == {
        ("train:train/a/s.jpg", "test:test/a/s.jpg"),
        ("train:train/b/o.jpg", "val:val/a/o.jpg"),
    }
    assert dict(+report.repeats) == {"train": 2}
    assert "  train:train/b/o.jpg = val:val/a/o.jpg (labels differ: b, a)" in text
    assert "in more than one split, 2 times" in text and text.endswith("nothing is wrong")


def test_problems_and_what_is_ignored(tmp_path):
    small(tmp_path)
    put(tmp_path, train__A__0=encoded(80))
    for name in ("README.md", "train/a/._x.jpg", "notes.txt", "more.txt"):
        (tmp_path / name).touch()
    _, text = checked(tmp_path)
    assert "ignored: 4 that are no images (.txt 2, " in text and "hidden 1" in text
    assert "wrong: classes with one name:\n  'A' = 'a'" in text
    assert "wrong: classes without an image in test/:\n  A" in text
    assert "test: 4 images; of a class 0 (A) to 2 (b)\n  without an image: A" in text


def test_sources_that_read_when_called():
    """As those of TFDS do."""
    content = [encoded(i) for i in range(4)]
    rows = [Record(f"x/{i}", lambda i=i: content[i], i % 2) for i in range(4)]

    def damaged():
        raise RuntimeError("a line\nand another")

    rows.append(Record("x/4", damaged, 0))
    report = check.look_at_dataset(Dataset("toys", ("a", "b"), tuple(rows[:2]), (), tuple(rows[2:])))
    assert [look.size for look in report.images] == [(8, 9)] * 4 + [(0, 0)]
    assert report.unreadable[0].error == "image x/4 cannot be read (a line and another)"


def test_nothing_to_look_at():
    empty = Dataset("toys", (), (), (), ())
    assert "toys: 0 classes, 0 images" in check.text(findings.inspect(empty, {}), check.look_at_dataset(empty))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pini_jax.data", *arguments], capture_output=True, text=True, timeout=120
    )


def test_the_command(tmp_path):
    small(tmp_path / "birds")
    done = command("check", "--dataset=folder:birds", f"--data_dir={tmp_path}")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "nothing is wrong"
    put(tmp_path / "birds", train__a__bad=b"no image")
    done = command("check", "--dataset=folder:birds", f"--data_dir={tmp_path}")
    assert done.returncode == 1
    last = "  image train/a/bad.jpg cannot be read (no kind of image that PIL knows)"
    assert done.stdout.splitlines()[-1] == last and "Traceback" not in done.stderr


def test_the_command_refuses_in_a_line(tmp_path):
    for status, *arguments in (1, "check", f"--dataset=folder:{tmp_path}/none"), (2, "chekc", "--dataset=digits"):
        done = command(*arguments)
        assert done.returncode == status and not done.stdout
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ names


def test_names_of_datasets(tmp_path):
    assert sources.load_dataset("digits", "", 1) == digits.load_digits()
    small(tmp_path / "birds")
    data = sources.load_dataset("folder:birds", str(tmp_path), 1)
    assert (
        data
        == sources.load_dataset(f"folder:{tmp_path}/birds", "/elsewhere", 1)
        == folder.find_folder(tmp_path / "birds", 1).accepted()
    )
    rows = [(r.id, split) for split in ("train", "val", "test") for r in getattr(data, split)]
    lines = ["path,label,split", *(f"birds/{id},{id.split('/')[1]},{split}" for id, split in rows)]
    (tmp_path / "birds.CSV").write_text("\n".join(lines))
    table = sources.load_dataset("birds.CSV", str(tmp_path), 1)
    assert [r.source for r in table.test] == [r.source for r in data.test]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digit", "did you mean 'digits'"),
        ("foldr:/data", "did you mean 'folder:PATH'"),
        ("tfd:mnist", "did you mean 'tfds:NAME'"),
        ("", "known: digits, folder:PATH, "),
        ("folder:", "no dataset 'folder:'; did you mean 'folder:PATH'"),
        ("something else", "known: digits, folder:PATH, tfds:NAME, "),
        ("birds.csv", "cannot be read .*No such file"),
    ],
)
def test_unknown_names_are_refused(tmp_path, name, expected):
    (tmp_path / "birds").mkdir()
    with pytest.raises(InputError, match=expected):
        sources.load_dataset(name, str(tmp_path), 1)


def test_a_bare_folder_is_refused_with_its_name(tmp_path):
    with pytest.raises(InputError, match=f"write it as folder:{tmp_path}"):
        sources.load_dataset(str(tmp_path), "", 1)
