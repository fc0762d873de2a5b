"""Tables of images: CSV and JSON Lines, what they may hold, and what is refused."""

import json
import logging
import os
import random
import unicodedata
from pathlib import Path

import pytest

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import tables

DATA = os.environ.get("PINI_DATA_DIR")
IMAGES = [f"images/{name}_{i}.jpg" for name in ("ant", "bee") for i in range(10)]
ROWS = [(path, path[7:10]) for path in IMAGES]


@pytest.fixture
def folder(tmp_path):
    """A folder with twenty empty images: a loader does not open them."""
    (tmp_path / "images").mkdir()
    for image in IMAGES:
        (tmp_path / image).touch()
    return tmp_path


def table(folder, *lines, name="data.csv", end="\n", encoding="utf-8"):
    (folder / name).write_bytes((end.join(lines) + end).encode(encoding))
    return folder / name


def simple(folder, *more, **options):
    return table(folder, "path,label", *(",".join(row) for row in ROWS), *more, **options)


def json_lines(folder, *rows):
    return table(folder, *(json.dumps(row) if isinstance(row, dict) else row for row in rows), name="data.jsonl")


def described(dataset):
    """{id: class name}."""
    return {r.id: dataset.class_names[r.label] for split in dataset[2:] for r in split}


# ------------------------------------------------------------------------------------------------ contents


def test_a_table_of_paths_and_labels(folder):
    data = tables.find_table(simple(folder), seed=1).accepted()
    assert data.class_names == ("ant", "bee") and described(data) == dict(ROWS)
    assert all(r.source == folder / r.id for r in data.train)
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)


def test_json_lines_are_the_same_table(folder):
    rows = [{"path": path, "label": label, "seen": [1, 2.5, None, True]} for path, label in ROWS]
    data = tables.find_table(json_lines(folder, *rows), 1).accepted()
    assert data[1:] == tables.find_table(simple(folder), 1).accepted()[1:]


def test_the_order_of_rows_means_nothing(folder):
    turned = table(folder, "label,path", *(f"{label},{path}" for path, label in reversed(ROWS)), name="turned.csv")
    assert tables.find_table(turned, 1).accepted()[1:] == tables.find_table(simple(folder), 1).accepted()[1:]


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ({}, {"encoding": "utf-8-sig"}),
        ({}, {"end": "\r\n"}),
        ({"more": ["", "  ", ","]}, {}),
        ({"header": " Path , LABEL "}, {}),
        ({"header": "path,label,note", "cell": ',"a note, ""quoted"""'}, {}),
        ({"cell": "  "}, {}),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "spaced header", "quotes", "spaces"],
)
def test_csvs_as_programs_write_them(folder, lines, options):
    rows = [f"{path}, {label}{lines.get('cell', '')}" for path, label in ROWS]
    path = table(folder, lines.get("header", "path,label"), *rows, *lines.get("more", []), **options)
    assert described(tables.find_table(path, 1).accepted()) == dict(ROWS)


def test_commas_and_quotes_in_names(folder):
    os.rename(folder / IMAGES[0], folder / 'images/a, "b" é.jpg')
    rows = ['"images/a, ""b"" é.jpg","ant, red"', *(f'{path},"{label}, red"' for path, label in ROWS[1:])]
    data = tables.find_table(table(folder, "path,label", *rows), 1).accepted()
    assert data.class_names == ("ant, red", "bee, red")
    assert 'images/a, "b" é.jpg' in described(data)


def test_names_for_numbers(folder):
    rows = [f"{path},{dict(ant=10, bee=9)[label]},{label}" for path, label in ROWS]
    data = tables.find_table(table(folder, "path,label,name", *rows), 1).accepted()
    assert data.class_names == ("bee", "ant") and described(data) == dict(ROWS)


def test_numbers_of_json_lines(folder):
    rows = [{"path": path, "label": 7 if label == "ant" else 30, "name": label} for path, label in ROWS]
    assert tables.find_table(json_lines(folder, *rows), 1).accepted().class_names == ("ant", "bee")


def test_numbers_without_names_are_a_warning(folder, caplog):
    rows = [f"{path},{10 + (label == 'ant') - i // 10 * 8}" for i, (path, label) in enumerate(ROWS)]
    assert tables.find_table(table(folder, "path,label", *rows), 1).accepted().class_names == ("2", "11")
    assert "say nothing of their class" in caplog.text and "column `name`): 2, 11" in caplog.text


def test_splits_of_the_table(folder):
    split = ["train", "TRAIN", "train", "train", "train", "validation", "valid", "val", "test", "Test"] * 2
    rows = [f"{path},{label},{part}" for (path, label), part in zip(ROWS, split, strict=True)]
    data = tables.find_table(table(folder, "path,label,split", *rows), 1).accepted()
    assert [r.id for r in data.val] == IMAGES[5:8] + IMAGES[15:18]
    assert [r.id for r in data.test] == IMAGES[8:10] + IMAGES[18:20]
    assert len(data.train) == 10


def test_nothing_is_cut_off_rows_that_say_train(folder):
    rows = [f"{path},{label},{'test' if path[-5] in '01234' else 'train'}" for path, label in ROWS]
    data = tables.find_table(table(folder, "path,label,split", *rows), 1).accepted()
    assert (len(data.train), len(data.val), len(data.test)) == (10, 0, 10)


def test_an_image_that_is_listed_twice_counts_once(folder, caplog):
    data = tables.find_table(simple(folder, "images/../images/ant_0.jpg,ant", ",".join(ROWS[3])), 1).accepted()
    assert described(data) == dict(ROWS)
    assert "2 rows list an image again" in caplog.text


def test_nothing_else_is_a_warning(folder, caplog):
    tables.find_table(simple(folder), 1).accepted()
    assert all(record.levelno <= logging.INFO for record in caplog.records)


@pytest.mark.parametrize("windows", [False, True])
def test_paths_of_other_kinds(folder, windows):
    rows = [("./" + path if i % 2 else f"{folder}/{path}", label) for i, (path, label) in enumerate(ROWS)]
    rows = [(path.replace("/", "\\") if windows else path, label) for path, label in rows]
    data = tables.find_table(table(folder, "path,label", *(",".join(r) for r in rows)), 1).accepted()
    assert described(data) == dict(ROWS)


@pytest.mark.parametrize("start", ["..", "{}"], ids=["relative", "absolute"])
def test_ids_do_not_say_where_a_machine_keeps_its_images(folder, start):
    (folder / "tables").mkdir()
    rows = [f"{start.format(folder)}/{path},{label}" for path, label in ROWS]
    data = tables.find_table(table(folder / "tables", "path,label", *rows), 1).accepted()
    assert described(data) == {Path(path).name: label for path, label in ROWS}


@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
def test_real_images(tmp_path):
    root = Path(DATA, "images", "cifar10")
    files = sorted(root.glob("*/*/*.jpg"))
    rows = [f"{file},{file.parent.name},{file.parent.parent.name}" for file in files]
    data = tables.find_table(table(tmp_path, "path,label,split", *rows), 1).accepted()
    assert (len(data.train), len(data.val), len(data.test)) == (160, 0, 500)
    assert data.test[0].id == "test/airplane/0000.jpg"


# ------------------------------------------------------------------------------------------------ refusals


def refused(path):
    with pytest.raises(InputError) as caught:
        tables.find_table(path, 1).accepted()
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_missing_columns_are_named_with_those_there(folder):
    assert refused(table(folder, "file,label", "a,b")) == " has no column path; its columns: 'file', 'label'"
    assert refused(table(folder, "path;label", "a;b")).endswith("no column label; its columns: 'path;label'")
    assert "path and no column label; its columns: 'image'" in refused(json_lines(folder, {"image": "x"}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "has no column path and no column label; its columns: none"),
        (b"\n\n", "its columns: none"),
        (b"path,label\n", "lists no images"),
        ("path,label\ncafé.jpg,a\n".encode("latin-1"), "is not UTF-8"),
        ("path,label\na.jpg,a\n".encode("utf-16"), "is not UTF-8"),
        (b'path,label\n"a.jpg,a\n', "is no CSV"),
        (b"path,label,label\na.jpg,a,b\n", "two columns label"),
        (b"path,label\n" + b"x" * 200_000 + b",a\n", "is no CSV"),
    ],
    ids=["empty", "blank", "header", "latin", "utf-16", "open quote", "two columns", "huge field"],
)
def test_what_is_no_table_is_refused(tmp_path, content, expected):
    (tmp_path / "data.csv").write_bytes(content)
    assert expected in refused(tmp_path / "data.csv")


def test_files_that_are_no_tables_are_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "none.csv")
    assert ".csv or .jsonl" in refused(table(tmp_path, "path\tlabel", name="data.tsv"))
    (tmp_path / "folder.csv").mkdir()
    assert "directory" in refused(tmp_path / "folder.csv")


def test_missing_images_are_all_named(folder):
    message = refused(simple(folder, "images/no.jpg,ant", "elsewhere/x.jpg,bee", "/nowhere/at/all.jpg,bee"))
    assert message == ": images that are missing: images/no.jpg, elsewhere/x.jpg, /nowhere/at/all.jpg"


def test_many_missing_images_are_counted(folder):
    message = refused(simple(folder, *(f"images/no_{i:02d}.jpg,ant" for i in range(40))))
    assert "no_09.jpg, and 30 more" in message
    assert len(tables.find_table(folder / "data.csv", 1).problems[0].where) == 40


def test_labels_that_disagree_are_named(folder):
    message = refused(simple(folder, "images/ant_0.jpg,bee", "images/bee_3.jpg,ant"))
    assert (
        message
        == ": images with more than one label: images/ant_0.jpg (lines 2, 22), images/bee_3.jpg (lines 15, 23)"
    )


def test_an_image_in_two_splits_is_named(folder):
    rows = [f"{path},{label},{'test' if path[-5] in '01234' else 'train'}" for path, label in ROWS]
    path = table(folder, "path,label,split", *rows, "images/ant_0.jpg,ant,train", "images/ant_9.jpg,ant,Train")
    assert refused(path) == ": images with more than one split: images/ant_0.jpg (lines 2, 22)"


def test_names_that_disagree_are_named(folder):
    rows = [f"{path},{i // 10},{'fly' if i == 3 else label}" for i, (path, label) in enumerate(ROWS)]
    assert refused(table(folder, "path,label,name", *rows)) == ": labels with more than one name: 0 (ant, fly)"


def test_two_labels_with_one_name_are_named(folder):
    rows = [f"{path},{i // 10},{'Ant' if i < 10 else 'ant'}" for i, (path, _) in enumerate(ROWS)]
    assert refused(table(folder, "path,label,name", *rows)) == ": classes with one name: 'Ant' = 'ant'"


def test_a_label_without_a_name_is_named(folder):
    rows = [f"{path},{i // 10},{label if i < 10 else ''}" for i, (path, label) in enumerate(ROWS)]
    assert ": a label without a name (1): line 12, " in refused(table(folder, "path,label,name", *rows))


def test_a_class_without_a_training_image_is_named(folder):
    rows = [f"{path},{label},{'test' if label == 'bee' else 'train'}" for path, label in ROWS]
    assert ": classes without a training image: bee" in refused(table(folder, "path,label,split", *rows))


def test_all_problems_are_named_at_once(folder):
    rows = [f"{path},{label},train" for path, label in ROWS]
    odd = [
        "images/a.jpg,,train",
        ",ant,train",
        "images/b.jpg,ant,later",
        "images/c.jpg,ant",
        "images/no.jpg,ant,train",
    ]
    message = refused(table(folder, "path,label,split", *rows, *odd))
    for part in (
        "rows without a label: line 22",
        "rows without a path: line 23",
        "rows of a split 'later', which is no train, val or test: line 24",
        "rows of 2 fields under a header of 3 (quote what holds a comma): line 25",
        "images that are missing: images/no.jpg",
    ):
        assert part in message


def test_a_missing_column_is_said_before_a_row_that_does_not_fit(folder):
    assert refused(table(folder, "file,label", "a,b", "a,b,c")).startswith(" has no column path")
    assert refused(json_lines(folder, "{", {"path": "x"})).startswith(" has no column label")


def test_lines_that_are_no_json_are_named(folder):
    rows = [{"path": path, "label": label} for path, label in ROWS]
    odd = ["{", "[1]", "3", "[" * 100_000, {"path": "x", "label": 1.5}, {"path": ["x"], "label": "ant"}]
    message = refused(
        json_lines(folder, *rows, *odd, {"path": "x", "label": True}, '{"path":"\\ud800","label":"a"}')
    )
    assert "lines that are no JSON object: line 21, line 22, line 23, line 24" in message
    assert "neither text nor a whole number: line 25, line 26, line 27, line 28" in message
    assert refused(json_lines(folder, "{", "")).startswith(": lines that are no JSON object: line 1; ")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('images/ant_0.jpg,"a" b', "is no CSV (line 22: "),
        ('images/ant_0.jpg,"ant', "is no CSV (line 22: "),
        ('images/ant_0.jpg,"ant\nimages/ant_1.jpg,ant', "is no CSV (lines 22 to 23, as one row: "),
        ("images/ant_0.jpg," + "x" * 200_000, "is no CSV (line 22: field larger than"),
    ],
    ids=["quote within", "quote at the end", "open quote", "huge field"],
)
def test_the_line_of_what_is_no_csv(folder, row, expected):
    assert refused(simple(folder, row)).startswith(f" {expected}")


def test_the_line_of_what_is_no_utf8(folder):
    path = simple(folder)
    path.write_bytes(path.read_bytes() + b"images/caf\xe9.jpg,ant\n")
    assert "is not UTF-8 (line 22, byte" in refused(path)


def test_a_row_of_several_lines_counts_its_last(folder):
    path = simple(folder, '"images/no\n.jpg",ant', "images/ant_0.jpg,")
    assert "rows without a label: line 24" in refused(path)


@pytest.mark.parametrize(
    "cell", ["ant|bee", "bee; ant", '"ant,bee"', "\"['ant', 'bee']\"", "cow|ant", "ant/bee", '"ant\nbee"']
)
def test_several_labels_in_a_cell_are_a_line(folder, caplog, cell):
    rows = [f"{path},{cell if i in (3, 5) else label}" for i, (path, label) in enumerate(ROWS)]
    data = tables.find_table(table(folder, "path,label", *rows), 1).accepted()
    assert len(data.class_names) == 3
    assert "names that join those of other classes, where an image has one class only" in caplog.text


@pytest.mark.parametrize("cell", ["red|green", "C++", "ant-eater", "ant bee", "a|"])
def test_other_names_are_not(folder, caplog, cell):
    rows = [f"{path},{cell if i in (3, 5) else label}" for i, (path, label) in enumerate(ROWS)]
    tables.find_table(table(folder, "path,label", *rows), 1).accepted()
    assert all(record.levelno <= logging.INFO for record in caplog.records)


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_accents_in_one_character_or_two(tmp_path, on_disk, written):
    """macOS writes the names of files with their accents apart."""
    names = ("café", "thé/vert")
    for name in names:
        place = tmp_path / unicodedata.normalize(on_disk, name)
        place.mkdir(parents=True)
        for i in range(10):
            (place / unicodedata.normalize(on_disk, f"é{i}.jpg")).touch()
    rows = [unicodedata.normalize(written, f"{name}/é{i}.jpg,{name}") for name in names for i in range(10)]
    data = tables.find_table(table(tmp_path, "path,label", *rows), 1).accepted()
    records = data.train + data.val + data.test
    assert len(records) == 20 and all(record.source.is_file() for record in records)
    twice = [unicodedata.normalize(form, row) for row in rows for form in ("NFC", "NFD")]
    again = tables.find_table(table(tmp_path, "path,label,name", *(f"{row},x{'café' in row}" for row in twice)), 1)
    assert sum(map(len, again.dataset[2:])) == 20


def test_a_name_that_is_there_twice_is_the_exact_one(tmp_path):
    for i in range(10):
        for form in ("NFC", "NFD"):
            (tmp_path / unicodedata.normalize(form, f"é{i}.jpg")).touch()
    if len(list(tmp_path.iterdir())) < 20:
        pytest.skip("this file system has one form only")
    rows = [unicodedata.normalize(form, f"é{i}.jpg") + f",{form}" for i in range(10) for form in ("NFC", "NFD")]
    data = tables.find_table(table(tmp_path, "path,label", *rows), 1).accepted()
    for record in data.train + data.val + data.test:
        assert unicodedata.is_normalized(data.class_names[record.label], record.source.name)


def test_what_is_no_regular_file_is_named(folder):
    os.mkfifo(folder / "images" / "pipe.jpg")
    (folder / "images" / "link.jpg").symlink_to("/dev/zero")
    (folder / "images" / "gone.jpg").symlink_to("nowhere")
    (folder / "images" / "good.jpg").symlink_to("ant_0.jpg")
    rows = ["/dev/zero", "images/pipe.jpg", "images/link.jpg", "images", "images/good.jpg", "images/gone.jpg"]
    message = refused(simple(folder, *(f"{row},ant" for row in rows)))
    assert "images that are no regular files: /dev/zero, images/pipe.jpg, images/link.jpg, images" in message
    assert "images that are missing: images/gone.jpg" in message


def test_a_table_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.jsonl"):
        assert "a pipe or a device" in refused(tmp_path / name)


def test_pictures_that_cannot_be_read_are_left_out(folder, caplog):
    (folder / "images" / "x.cr2").touch()
    data = tables.find_table(simple(folder, "images/x.cr2,ant", "images/gone.NEF,bee"), 1).accepted()
    assert described(data) == dict(ROWS)
    assert "2 pictures are left out: 1 .cr2 (camera RAW" in caplog.text


@pytest.mark.parametrize("depth", [10, 500, 990, 100_000])
def test_nested_json_is_a_row_or_none(folder, depth):
    rows = [{"path": path, "label": label} for path, label in ROWS]
    nested = '{"path": ' + '{"a": ' * depth + "1" + "}" * depth + ', "label": "ant"}'
    beside = '{"path": "images/ant_0.jpg", "label": "ant", "more": ' + "[" * depth + "]" * depth + "}"
    message = refused(json_lines(folder, *rows, nested))
    assert "line 21" in message and len(message) < 200
    found = tables.find_table(json_lines(folder, *rows, beside), 1)
    assert sum(map(len, found.dataset[2:])) == 20


def test_control_characters_and_long_names_are_not_printed(folder):
    rows = [{"path": path, "label": f"{label}\x1b[31m\n{'x' * 1000}"} for path, label in ROWS]
    long = {"path": "images/\x07" + "y" * 10_000 + ".jpg", "label": rows[0]["label"]}
    message = refused(json_lines(folder, *rows, long, {"path": "a", "label": "\x1b" * 500, "split": "\x1b" * 500}))
    assert message.isprintable() and len(message) < 1500
    message = refused(table(folder, *[f"path{i}\x1b" for i in range(1)], "x"))
    assert message.isprintable()
    message = refused(table(folder, ",".join(f"column {i}" for i in range(10_000)), "x"))
    assert len(message) < 500


@pytest.mark.parametrize("seed", range(100))
def test_any_text_is_a_table_or_a_line(folder, seed):
    """No error but InputError, and that is one line of a readable length."""
    chance = random.Random(seed)
    name = chance.choice(["fuzz.csv", "fuzz.jsonl"])
    pieces = ["path", "label", "split", ",", ",", '"', "\n", "\r\n", "images/ant_0.jpg", "ant", "train", "\x00"]
    pieces += ['{"path": ', '"label": ', "{", "}", "[", ":", "1e999", "\\ud800", "../" * 20, "a" * 300, "\x1b[2J"]
    lines = "path,label\n" if chance.random() < 0.5 else ""
    (folder / name).write_text(lines + "".join(chance.choices(pieces, k=chance.randint(0, 60))), newline="")
    try:
        tables.find_table(folder / name, 1).accepted()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 5000


@pytest.mark.parametrize("row", [{"label": "ant"}, {"path": None, "label": "ant"}, {"path": " ", "label": "ant"}])
def test_a_row_without_a_path_is_named(folder, row):
    rows = [{"path": path, "label": label} for path, label in ROWS]
    assert refused(json_lines(folder, *rows, row)) == ": rows without a path: line 21"
