"""Which files are pictures: the formats that may be opened, their endings, and those that are left out and why."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable

import PIL
from PIL import Image, features

VERSION = PIL.__version__  # of what decodes
with contextlib.suppress(ImportError):  # reads the photos of telephones where it is installed
    import pillow_heif

    pillow_heif.register_heif_opener()
    VERSION += f" pillow-heif {pillow_heif.__version__}"

# The pictures among PIL's formats, in the order in which a file is tried. What is not here is not opened, whatever
# a file is called: EPS starts Ghostscript, WMF has Windows draw, BUFR, GRIB, HDF5 and MPEG call whatever has
# registered itself, FITS, IMT, IPTC, MCIDAS and SPIDER are measurements, and the endings of PCD and GBR mean other
# things today.
_PICTURES = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "DIB", "ICO", "CUR", "ICNS"),
    *("TGA", "PSD", "QOI", "DDS", "PCX", "DCX", "SGI", "SUN", "XBM", "XPM", "MSP", "IM", "PIXAR", "FLI", "BLP"),
    "FTEX",
)
_CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # that PIL may have been built without

Image.init()
FORMATS = tuple(
    name for name in _PICTURES if name in Image.OPEN and (name not in _CODECS or features.check(_CODECS[name]))
)
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
SUFFIXES |= {".jif", ".jfi", ".mpo", ".pjp", ".pjpeg"}  # other names of JPEG

# Endings of pictures that are not read, by the reason; what the installed PIL does read is taken out below.
_UNREAD = {
    "HEIC: to read it, pip install pillow-heif": ".heic .heics .heif .heifs .hif",
    "AVIF: to read it, install Pillow 11.3 or later": ".avif .avifs",
    "this Pillow was built without it": ".webp .jp2 .j2k .jpx",
    "camera RAW: develop it to JPEG": ".3fr .arw .cr2 .cr3 .crw .dcr .dng .iiq .kdc .mrw .nef .nrw .orf .pef"
    " .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
    "drawings and documents: save them as PNG": ".ai .cdr .djvu .emf .eps .pdf .ps .svg .svgz .wmf",
    "scans and measurements: save them as PNG": ".czi .dcm .dicom .fit .fits .fts .mha .mhd .nii .nrrd",
    "no format of Pillow's: save it as PNG": ".bpg .exr .flif .hdp .hdr .jxl .jxr .kra .ora .pcd .psb .wdp .xcf",
}
LEFT_OUT = {suffix: why for why, listed in _UNREAD.items() for suffix in listed.split() if suffix not in SUFFIXES}
PICTURES = SUFFIXES | LEFT_OUT.keys()


def suffix(file: str) -> str:
    """The ending of a file's name in lower case, with its dot; empty where it has none."""
    return os.path.splitext(file)[1].lower()


def counted(files: Iterable[str]) -> tuple[str, ...]:
    """How many pictures of each ending are left out, and why: `20 .heic (HEIC: to read it, ...)`."""
    counts = Counter(map(suffix, files))
    return tuple(f"{number} {end} ({LEFT_OUT[end]})" for end, number in counts.most_common())
