"""Which formats may be opened, and which endings are pictures."""

import io

import pytest
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import check, folder, formats, tables
from pini_jax.data.datasets.records import Record, open_image

# Formats that PIL writes -> an ending of theirs.
WRITTEN = {
    **{"AVIF": ".avif", "BMP": ".bmp", "DDS": ".dds", "DIB": ".dib", "GIF": ".gif", "ICNS": ".icns"},
    **{"ICO": ".ico", "IM": ".im", "JPEG": ".jfif", "JPEG2000": ".jp2", "MPO": ".mpo", "MSP": ".msp"},
    **{"PCX": ".pcx", "PNG": ".apng", "PPM": ".pnm", "QOI": ".qoi", "SGI": ".sgi", "TGA": ".tga"},
    **{"TIFF": ".tif", "WEBP": ".webp", "XBM": ".xbm"},
}


def picture(kind):
    buffer = io.BytesIO()
    Image.new("1" if kind in ("MSP", "XBM") else "RGB", (16, 16), "white").save(buffer, kind)
    return buffer.getvalue()


def test_nothing_that_starts_a_program_or_is_no_picture_is_opened():
    assert not {"EPS", "PDF", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS", "IPTC"} & set(formats.FORMATS)
    assert set(formats.FORMATS) <= set(Image.OPEN)
    assert formats.FORMATS[:2] == ("JPEG", "PNG")


def test_an_ending_is_read_or_left_out():
    assert not formats.SUFFIXES & formats.LEFT_OUT.keys()
    for suffix in (".eps", ".heic", ".svg", ".cr2", ".nef", ".jxl", ".dcm", ".wmf"):
        assert suffix in formats.PICTURES - formats.SUFFIXES


@pytest.mark.filterwarnings("ignore:IM image format is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_the_installed_pil_reads_is_read(tmp_path, kind):
    """In a folder as in a table."""
    if kind != "MPO" and kind not in formats.FORMATS:
        pytest.skip(f"this PIL reads no {kind}")
    rows = ["path,label"]
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}{WRITTEN[kind].upper()}").write_bytes(picture(kind))
            rows.append(f"{name}/{i}{WRITTEN[kind].upper()},{name}")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    inside = folder.find_folder(tmp_path, 1).accepted()
    listed = tables.find_table(tmp_path / "all.csv", 1).accepted()
    assert inside[1:] == listed[1:]
    report = check.look_at_dataset(inside)
    assert not report.unreadable and len(report.images) == 8
    assert open_image(inside.test[0]).mode == "RGB"


def test_a_count_says_what_to_do():
    files = ["a/1.HEIC", "a/2.heic", "b/x.NEF"]
    assert formats.counted(files) == ("2 .heic (HEIC: to read it, pip install pillow-heif)",) * (
        ".heic" in formats.LEFT_OUT
    ) + ("1 .nef (camera RAW: develop it to JPEG)",)


def test_an_eps_under_another_name_is_no_image():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(InputError, match="image x.png cannot be read .no kind of image"):
        open_image(Record("x.png", eps, 0))
