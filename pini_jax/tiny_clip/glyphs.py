"""Pictures of digits and letters with captions, drawn on the fly: what the bundled CLIP is pre-trained on.

A glyph is kept as the signed distance to its outline, so that moving, bending, thickening and blurring it are
arithmetic on coordinates and levels. A picture is a pure function of (key, glyph).

Shapes: g glyphs, b images, h = w pixels, t templates, n names, l words, s tokens.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from PIL import Image, ImageDraw, ImageFont

from pini_jax.clip.tokenizer import Tokenizer
from pini_jax.core import extras
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import digits

# The fonts in matplotlib that draw all ten digits and 52 letters upright; its others hold symbols.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic"),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
NAMES = digits.CLASS_NAMES + tuple(string.ascii_lowercase)
NUM_DIGITS = len(digits.CLASS_NAMES)
CHARACTERS = string.digits + string.ascii_letters
_PHRASES = (
    "a photo of the {kind} {name}",
    "a photo of a {kind} {name}",
    "a photo of the {name}",
    "a blurry photo of the {kind} {name}",
    "a drawing of the {kind} {name}",
    "a picture of the {kind} {name}",
    "a small image of the {kind} {name}",
    "a white {kind} {name} on black",
    "a handwritten {kind} {name}",
    "a printed {kind} {name}",
    "the {kind} {name}",
    "{kind} {name}",
    "{name}",
)
TEMPLATES = _PHRASES + tuple(phrase + "." for phrase in _PHRASES)
CONTEXT_WORD = "x"

_GRID = 48  # samples along a side of a stored field, which covers 1.5 times the glyph's box
_MARGIN = 1.5


class Bank(NamedTuple):
    """Glyphs to draw from.

    Attributes:
        distance: signed distance to the outline, positive in the ink; 1 is half the glyph's longer side.
        name: index into NAMES.
        probability: of being drawn: digits as often as letters, and every name of a kind equally often.
    """

    distance: Float[Array, "g h w"]
    name: Int[Array, "g"]
    probability: Float[Array, "g"]


class Captions(NamedTuple):
    """Every template with every name as ids, without start and end tokens, padded with the end token."""

    ids: Int[Array, "t n l"]
    length: Int[Array, "t n"]
    start_id: int
    end_id: int
    context_id: int


def glyph_name(character: str) -> int:
    """Index into NAMES; a letter has one name for both its cases."""
    return int(character) if character.isdigit() else NUM_DIGITS + ord(character.lower()) - ord("a")


def load_bank(fonts: Sequence[str]) -> Bank:
    """Every digit and letter in every font of `fonts`.

    Raises:
        InputError: a font is none of FONTS.
    """
    if unknown := sorted(set(fonts) - set(FONTS)):
        raise InputError(f"no digits and letters in fonts {unknown}; known are {', '.join(FONTS)}")
    distance = np.concatenate([_fields(font) for font in fonts])
    name = np.array([glyph_name(character) for _ in fonts for character in CHARACTERS])
    per_kind = np.where(name < NUM_DIGITS, NUM_DIGITS, len(NAMES) - NUM_DIGITS)
    probability = 0.5 / per_kind / np.bincount(name)[name]
    return Bank(jnp.array(distance, jnp.float32), jnp.array(name), jnp.array(probability, jnp.float32))


@cache
def _fields(font: str) -> np.ndarray:
    """Distances [characters, h, w] in one font: a third of a second's work, hence kept."""
    return np.stack([_distance(_draw(font, character)) for character in CHARACTERS])


def _draw(font: str, character: str) -> np.ndarray:
    """Ink as booleans [4 h, 4 w], the glyph's box in the middle, its longer side 4 h / 1.5."""
    path = Path(extras.require("matplotlib", "report").get_data_path(), "fonts", "ttf", f"{font}.ttf")
    page = Image.new("L", (512, 512))
    ImageDraw.Draw(page).text((128, 128), character, 255, ImageFont.truetype(path, 160))
    glyph = page.crop(page.getbbox())
    side = 4 * _GRID
    zoom = side / _MARGIN / max(glyph.size)
    glyph = glyph.resize([max(1, round(zoom * length)) for length in glyph.size], Image.Resampling.BICUBIC)
    canvas = Image.new("L", (side, side))
    canvas.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return np.asarray(canvas) > 127


def _distance(ink: np.ndarray) -> np.ndarray:
    """Booleans [4 h, 4 w] -> signed distance [h, w], by means over squares of 4 by 4."""
    from scipy.ndimage import distance_transform_edt

    signed = distance_transform_edt(ink) - distance_transform_edt(~ink)
    coarse = signed.reshape(_GRID, 4, _GRID, 4).mean((1, 3))
    return coarse * (2 * _MARGIN / len(ink))


class Looks(NamedTuple):
    """How far pictures vary at full strength; lengths are in halves of the picture's side.

    Attributes:
        rotation, shear: standard deviations, in radians and as a slope.
        narrow: logarithm of the greatest width that is lost; a third of it may be gained.
        zoom: greatest change of the logarithm of the scale.
        shift: greatest displacement.
        bend: standard deviation of the displacement of each of `nodes` by `nodes` points.
        thinner, thicker: what the outline moves by, at most.
        blur: width of the softest edge.
        dim: share of the brightness that may be lost.
        noise: greatest standard deviation of a pixel.
        coloured: share of pictures in two random colours.
        coarse: shares of pictures averaged over squares of 1, 2, 3 and 4 pixels.
    """

    rotation: float = 0.12
    shear: float = 0.17
    narrow: float = 0.35
    zoom: float = 0.15
    shift: float = 0.1
    bend: float = 0.14
    nodes: int = 4
    thinner: float = 0.03
    thicker: float = 0.16
    blur: float = 0.25
    dim: float = 0.3
    noise: float = 0.08
    coloured: float = 0.15
    coarse: tuple[float, ...] = (0.3, 0.2, 0.4, 0.1)


LOOKS = Looks()
COARSEST = 12  # pixels that squares of 1, 2, 3 and 4 all divide


@partial(jax.jit, static_argnames="size")
def render_glyphs(
    key: jax.Array, bank: Bank, glyph: Int[Array, "b"], size: int, strength: float | Array
) -> Float[Array, "b h w 3"]:
    """Pictures of glyphs, in [0, 1]; picture i is a function of (key, i, glyph i) alone.

    Args:
        size: h = w, in pixels; a multiple of COARSEST.
        strength: 0 draws plain glyphs, white on black; 1 bends, blurs, colours and coarsens them in full.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(glyph)))
    return jax.vmap(partial(_picture, size=size, strength=strength))(keys, bank.distance[glyph])


def _picture(key: jax.Array, distance: Array, size: int, strength: float | Array) -> Array:
    place, ink, coarse, paint = jax.random.split(key, 4)
    field = _sample(distance, _coordinates(place, size, strength))
    grey = _coarsen(coarse, _ink(ink, field, size, strength), strength)
    return _paint(paint, grey, strength)


def _coordinates(key: jax.Array, size: int, strength: float | Array) -> Float[Array, "h w 2"]:
    """(y, x) of the glyph that every pixel shows: affine(pixel) + bend(pixel)."""
    keys = jax.random.split(key, 6)
    angle = LOOKS.rotation * strength * jax.random.normal(keys[0])
    shear = LOOKS.shear * strength * jax.random.normal(keys[1])
    narrow = LOOKS.narrow * strength * jax.random.uniform(keys[2], minval=-1 / 3)
    zoom = LOOKS.zoom * strength * jax.random.uniform(keys[3], minval=-1)
    shift = LOOKS.shift * strength * jax.random.uniform(keys[4], (2,), minval=-1)
    nodes = LOOKS.bend * strength * jax.random.normal(keys[5], (LOOKS.nodes, LOOKS.nodes, 2))
    rotate = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
    slant = jnp.array([[1.0, 0.0], [shear, 1.0]])
    scale = jnp.exp(zoom + jnp.stack([0.0, narrow]))
    side = (jnp.arange(size) + 0.5) * (2 / size) - 1
    pixel = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), axis=-1)
    return pixel @ (rotate @ slant * scale).T + shift + jax.image.resize(nodes, (size, size, 2), "cubic")


def _sample(distance: Array, coordinates: Array) -> Array:
    """The field at (y, x), by linear interpolation."""
    index = (coordinates / _MARGIN + 1) * (_GRID / 2) - 0.5
    return jax.scipy.ndimage.map_coordinates(distance, list(jnp.moveaxis(index, -1, 0)), 1, mode="nearest")


def _ink(key: jax.Array, field: Array, size: int, strength: float | Array) -> Array:
    """clip((field + thickness) / softness + 1/2): a soft edge one pixel wide, or wider when blurred."""
    thickness, softness = jax.random.uniform(key, (2,))
    thickness = strength * (thickness * (LOOKS.thinner + LOOKS.thicker) - LOOKS.thinner)
    softness = 2 / size + strength * LOOKS.blur * softness**2
    return jnp.clip((field + thickness) / softness + 0.5, 0, 1)


def _coarsen(key: jax.Array, image: Array, strength: float | Array) -> Array:
    """Means over squares of 1, 2, 3 or 4 pixels, brought back to full size by a bicubic filter."""
    size = len(image)
    filters = jnp.stack([_coarse_filter(size, 1 + i) for i in range(len(LOOKS.coarse))])
    is_coarse, factor = jax.random.split(key)
    factor = jax.random.choice(factor, len(filters), p=jnp.array(LOOKS.coarse))
    matrix = filters[factor * jax.random.bernoulli(is_coarse, strength)]
    return matrix @ image @ matrix.T


def _coarse_filter(size: int, factor: int) -> Float[Array, "size size"]:
    mean = jnp.repeat(jnp.eye(size // factor), factor, axis=1) / factor
    return jax.image.resize(jnp.eye(size // factor), (size, size // factor), "cubic") @ mean


def _paint(key: jax.Array, grey: Float[Array, "h w"], strength: float | Array) -> Float[Array, "h w 3"]:
    """paper + grey (pen - paper) + noise: mostly white on black, else two random colours."""
    keys = jax.random.split(key, 5)
    brightness = 1 - LOOKS.dim * strength * jax.random.uniform(keys[0])
    colours = jax.random.uniform(keys[1], (2, 3))
    coloured = jax.random.bernoulli(keys[2], LOOKS.coloured * strength)
    paper, pen = jnp.where(coloured, colours, jnp.array([[0.0], [1.0]]) * brightness)
    deviation = LOOKS.noise * strength * jax.random.uniform(keys[3])
    noise = deviation * jax.random.normal(keys[4], (*grey.shape, 1))
    return jnp.clip(paper + grey[..., None] * (pen - paper) + noise, 0, 1)


def caption(template: str, name: int) -> str:
    """A template filled in: "a photo of the digit three" """
    kind = "digit" if name < NUM_DIGITS else "letter"
    return template.format(kind=kind, name=NAMES[name])


def all_captions() -> list[str]:
    """Every template with every name, name by name within a template."""
    return [caption(template, name) for template in TEMPLATES for name in range(len(NAMES))]


def load_captions(tokenizer: Tokenizer) -> Captions:
    """Tokenises all captions."""
    bodies = [tokenizer.encode(text)[1:-1] for text in all_captions()]
    longest = max(map(len, bodies))
    ids = np.array([body + [tokenizer.end_id] * (longest - len(body)) for body in bodies])
    shape = len(TEMPLATES), len(NAMES)
    return Captions(
        ids=jnp.array(ids.reshape(*shape, longest)),
        length=jnp.array(np.reshape([len(body) for body in bodies], shape)),
        start_id=tokenizer.start_ids[0],
        end_id=tokenizer.end_id,
        context_id=tokenizer.encode(CONTEXT_WORD)[1],
    )


def compose(
    captions: Captions, template: Array | int, name: Int[Array, "b"], context: Array | int, max_context: int
) -> tuple[Int[Array, "b s"], Int[Array, "b"]]:
    """[start, x `context` times, a caption of the name, end, ...], the first end; s = max_context + l + 2."""
    words, length = captions.ids[template, name], captions.length[template, name]
    context = jnp.broadcast_to(context, name.shape)
    index = jnp.arange(max_context + words.shape[1] + 2) - 1 - context[:, None]
    body = jnp.take_along_axis(words, jnp.clip(index, 0, words.shape[1] - 1), axis=1)
    ids = jnp.where(index < 0, captions.context_id, jnp.where(index < length[:, None], body, captions.end_id))
    return ids.at[:, 0].set(captions.start_id), 1 + context + length


def draw_captions(
    key: jax.Array, captions: Captions, name: Int[Array, "b"], max_context: int
) -> tuple[Int[Array, "b s"], Int[Array, "b"]]:
    """Ids and ends of random captions; half have no `x` before them, the others 0 to `max_context`."""
    which, some, many = jax.random.split(key, 3)
    template = jax.random.randint(which, name.shape, 0, len(TEMPLATES))
    context = jax.random.randint(many, name.shape, 0, max_context + 1)
    context *= jax.random.bernoulli(some, shape=name.shape)
    return compose(captions, template, name, context, max_context)
