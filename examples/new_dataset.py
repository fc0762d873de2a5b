"""A dataset of one's own: pictures of the digits, drawn here, as large as one likes.

    python -m pini_jax.main --config=configs/digits.py --config.plugins='("examples/new_dataset.py",)' \
        --config.dataset=drawn:48 --config.shots=2 --workdir=runs/drawn
"""

import io

from PIL import Image, ImageDraw

from pini_jax import register
from pini_jax.data.datasets import findings, splits
from pini_jax.data.datasets.digits import CLASS_NAMES
from pini_jax.data.datasets.findings import Findings
from pini_jax.data.datasets.records import Record

PICTURES = 20  # of every class


@register.dataset(r"drawn:(\d+)")
def drawn(size: str, data_dir: str, seed: int) -> Findings:
    """Images of `size` pixels, in splits that are cut here: 50 % for training, 20 % and 30 % for the others."""
    pictures = [
        Record(f"{name}/{i:02d}", draw(str(label), int(size), i), label)
        for label, name in enumerate(CLASS_NAMES)
        for i in range(PICTURES)
    ]
    return findings.inspect(splits.complete("drawn", CLASS_NAMES, {"train": pictures}, seed), {})


def draw(digit: str, size: int, shade: int) -> bytes:
    """A PNG file."""
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).text((size / 3, size / 5), digit, fill=255 - 5 * shade, font_size=size / 2)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
