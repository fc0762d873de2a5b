"""Where images to classify come from, one after another."""

import io
import json
import os
import tarfile
import unicodedata

import emulators
import pytest
from PIL import Image

from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.data.datasets.records import open_image
from pini_jax.use import inputs


def png(level=0):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("b/two.png", "a/one.PNG", "a/c/three.jpg")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    (tmp_path / "photos" / "notes.md").write_text("no picture")
    (tmp_path / "photos" / "a" / ".hidden.png").write_bytes(png())
    return tmp_path


def found(*names):
    return [record.id for record in inputs.find_images(names)]


def levels(*names):
    return [open_image(record).getpixel((0, 0))[0] for record in inputs.find_images(names)]


LISTS = {
    "list.txt": "b/two.png\n\n  a/one.PNG  \n",
    "table.csv": '\ufeffLabel, Path\nx, b/two.png\n"y, z",a/one.PNG\n',
    "table.jsonl": '{"path": "b/two.png"}\n\n{"path": "a/one.PNG", "other": [1]}\n',
}


def test_folders_and_files(folder):
    ids = ["photos/a/c/three.jpg", "photos/a/one.PNG", "photos/b/two.png"]
    assert found("photos") == ids
    assert found("photos/b/two.png", "nowhere.jpg", "photos/b") == [ids[2], "nowhere.jpg", ids[2]]
    assert inputs.count_images(["photos", "nowhere.jpg"]) == 4


def test_no_picture_is_passed_over_in_silence(folder):
    """Neither one of a kind that is not read, nor what only looks like one."""
    (folder / "photos" / "b" / "raw.CR2").write_bytes(b"II*\0")
    os.mkfifo(folder / "photos" / "b" / "pipe.png")
    with tarfile.open("photos.tar", "w") as archive:
        archive.add("photos/b/raw.CR2")
    pipe, raw, _ = inputs.find_images(["photos/b"])
    for record, why in (
        (pipe, "no regular file"),
        (raw, "camera RAW"),
        *((x, "RAW") for x in inputs.find_images(["photos.tar"])),
    ):
        with pytest.raises(InputError, match=f"{record.id} cannot be read .*{why}"):
            open_image(record)
    assert found("photos.tar") == ["photos.tar/photos/b/raw.CR2"]


@pytest.mark.parametrize("name", LISTS)
def test_accents_are_found_however_they_are_written(folder, name):
    (folder / "photos" / unicodedata.normalize("NFD", "é.png")).write_bytes(png(9))
    (folder / "photos" / name).write_text(LISTS[name].replace("b/two.png", "é.png"), encoding="utf-8")
    assert levels(f"photos/{name}") == [9, 1]


def test_a_bad_quote_loses_no_rows_in_silence(folder):
    (folder / "table.csv").write_text('path,label\nphotos/b/two.png,"x\nphotos/a/one.PNG,y\n')
    with pytest.raises(InputError, match="table.csv cannot be read .lines 2 to 3, as one row: unexpected end"):
        found("table.csv")


@pytest.mark.parametrize("name", LISTS)
def test_lists_and_tables(folder, name):
    (folder / "photos" / name).write_text(LISTS[name], encoding="utf-8")
    assert found(f"photos/{name}") == ["b/two.png", "a/one.PNG"]
    assert levels(f"photos/{name}") == [0, 1]
    assert inputs.count_images([f"photos/{name}"]) == 2


def test_standard_input(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/b/two.png\nphotos/a/one.PNG\n"))
    assert inputs.count_images(["-"]) is None
    assert levels("-") == [0, 1]


@pytest.mark.parametrize("mode", ("w", "w:gz"))
def test_archives(folder, mode):
    name = "shard.tar.gz" if mode == "w:gz" else "shard.tar"
    with tarfile.open(name, mode) as archive:
        for key in ("0001.png", "0001.cls", "dir/0002.jpg"):
            info = tarfile.TarInfo(key)
            info.size = len(png(7))
            archive.addfile(info, io.BytesIO(png(7)))
    assert found(name) == [f"{name}/0001.png", f"{name}/dir/0002.jpg"]
    assert levels(name) == [7, 7]
    assert inputs.count_images([name]) is None


def test_a_damaged_archive_gives_what_it_has_and_says_so(folder):
    with tarfile.open("shard.tar", "w") as archive:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 20000
            archive.addfile(info, io.BytesIO(png(i).ljust(20000, b"\0")))
    os.truncate("shard.tar", 30000)
    *whole, last = inputs.find_images(["shard.tar"])
    assert [record.id for record in whole] == ["shard.tar/0.png"] and last.id == "shard.tar"
    with pytest.raises(InputError, match="shard.tar cannot be read .the archive is damaged"):
        open_image(last)


@pytest.mark.parametrize("nested", (False, True))
def test_parquet(folder, nested):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    contents = [png(i) for i in range(5)] + [None]
    column = [{"bytes": content, "path": None} for content in contents] if nested else contents
    paths = [f"{i}.png" for i in range(6)]
    table = arrow.Table.from_pydict({"image": column} | ({} if nested else {"path": paths}))
    parquet.write_table(table, "images.parquet")
    wanted = [f"images.parquet/{i}" if nested else f"{i}.png" for i in range(6)]
    records = list(inputs.find_images(["images.parquet"]))
    assert [record.id for record in records] == wanted
    assert [open_image(record).getpixel((0, 0))[0] for record in records[:5]] == [*range(5)]
    with pytest.raises(InputError, match="the row has no bytes"):
        open_image(records[5])
    parquet.write_table(arrow.Table.from_pydict({"x": paths}), "none.parquet")
    with pytest.raises(InputError, match="no column of images' bytes .image or bytes, say.; its columns: x"):
        found("none.parquet")


def test_what_cannot_be_read(folder):
    (folder / "rows.jsonl").write_text('{"path": 3}\nno json\n' + json.dumps({"path": "photos/b/two.png"}))
    first, second, third = inputs.find_images(["rows.jsonl"])
    for record, line in ((first, 1), (second, 2)):
        with pytest.raises(InputError, match=f"rows.jsonl:{line} cannot be read .the row has no path"):
            open_image(record)
    assert open_image(third)
    (folder / "table.csv").write_text("file,label\na,b\n")
    with pytest.raises(InputError, match="table.csv has no column path; its columns: file, label"):
        found("table.csv")
    (folder / "table.csv").write_bytes(b"path\n\xff\n")
    with pytest.raises(InputError, match="table.csv cannot be read"):
        found("table.csv")
    with pytest.raises(InputError, match="nowhere.txt cannot be read"):
        found("nowhere.txt")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="broken.parquet cannot be read"):
        found("broken.parquet")


def test_an_archive_is_forgotten_as_it_is_read(folder, monkeypatch):
    with tarfile.open("shard.tar", "w") as archive:
        for i in range(5):
            archive.addfile(tarfile.TarInfo(f"{i}.png"), None)
            archive.addfile(tarfile.TarInfo(f"{i}.txt"), None)
    opened, open_archive = [], tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *how: opened.append(open_archive(*how)) or opened[-1])
    for number, record in enumerate(inputs.find_images(["shard.tar"])):
        assert record.id == f"shard.tar/{number}.png" and len(opened[0].members) <= 1
    assert number == 4


@pytest.fixture
def bucket(folder):
    """The same, in a bucket, with what names them."""
    with emulators.bucket("memory") as url:
        place = open_bucket(f"{url}/photos")
        for path in (folder / "photos").rglob("*.*"):
            place.put(path.relative_to(folder / "photos").as_posix(), path.read_bytes())
        yield place


def test_buckets_are_folders(bucket):
    ids = [f"{bucket.url}/{name}" for name in ("a/c/three.jpg", "a/one.PNG", "b/two.png")]
    assert found(bucket.url, f"{bucket.url}/b/", f"{bucket.url}/b/two.png") == [*ids, ids[2], ids[2]]
    assert levels(bucket.url) == [2, 1, 0] and inputs.count_images([bucket.url]) == 3
    with pytest.raises(InputError, match="nowhere does not exist, or there is no picture below it"):
        found(f"{bucket.url}/nowhere")


@pytest.mark.parametrize("name", LISTS)
def test_lists_and_tables_in_a_bucket(bucket, name):
    bucket.put(name, LISTS[name].encode())
    assert found(f"{bucket.url}/{name}") == ["b/two.png", "a/one.PNG"]
    assert levels(f"{bucket.url}/{name}") == [0, 1]


def test_a_list_of_this_machine_may_name_what_is_in_a_bucket(bucket, folder):
    (folder / "list.txt").write_text(f"{bucket.url}/b/two.png\nphotos/a/one.PNG\n{bucket.url}/gone.png")
    *records, gone = inputs.find_images(["list.txt"])
    assert [open_image(record).getpixel((0, 0))[0] for record in records] == [0, 1]
    with pytest.raises(InputError, match="gone.png does not exist"):
        open_image(gone)


def test_archives_in_a_bucket(bucket, folder):
    with tarfile.open(folder / "photos.tar", "w") as archive:
        archive.add("photos")
    bucket.put("photos.tar", (folder / "photos.tar").read_bytes())
    assert sorted(levels(f"{bucket.url}/photos.tar")) == sorted(levels("photos.tar"))
    assert all(id.startswith(f"{bucket.url}/photos.tar/photos/") for id in found(f"{bucket.url}/photos.tar"))
