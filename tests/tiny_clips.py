"""Random CLIPs of a few kilobytes, for the tests of everything that needs one."""

import functools
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import tokenizers
from flax.traverse_util import unflatten_dict
from tokenizers import models, normalizers, pre_tokenizers, processors

from pini_jax.clip import architecture, pretrained, prompts, zero_shot
from pini_jax.clip.checkpoints import hugging_face, weights
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.clip.tokenizer import END, START
from pini_jax.clip.towers import stage
from pini_jax.methods.method import Text
from pini_jax.methods.pini import Injector
from pini_jax.noise import sites

WORD = "</w>"
MERGES = [
    ("t", "h"),
    ("th", "e" + WORD),
    ("o", "f" + WORD),
    ("p", "h"),
    ("o", "t"),
    ("a", "t" + WORD),
    ("c", "at" + WORD),
]
NAMES = ("cat", "tabby_cat", "axolotl")
NOISE = {
    "prompt_tokens": {"generator": "table"},
    "image_features": {"generator": "cross_attention", "reduction": 2},
}
# Compiled once for all tests of one shape: stage(tower, name, params, *inputs), init(injector, key, theta, text).
run_stage = jax.jit(stage, static_argnums=(0, 1))
init = jax.jit(Injector.init, static_argnums=0)


def needs(method):
    """What a method reads besides features of images and of classes."""
    traits = method.traits
    kinds = {
        "prompts": traits.encodes_prompts,
        "pixels": traits.reads == "pixels",
        "support": traits.starts_from_support,
    }
    return {kind for kind, needed in kinds.items() if needed}


def tokenizer() -> tokenizers.Tokenizer:
    """CLIP's byte-pair tokenizer with seven merges: bytes, bytes that end a word, merges, start, end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [x + WORD for x in alphabet] + [a + b for a, b in MERGES] + [START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, MERGES, unk_token=END, end_of_word_suffix=WORD, continuing_subword_prefix="")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    backend.add_special_tokens([START, END])
    return backend


def sizes(
    activation: str = "quick_gelu",
    image_size: int = 12,
    patch_size: int = 4,
    image_width: int = 32,
    text_width: int = 16,
    layers: int = 2,
    heads: int = 2,
    embed_dim: int = 24,
    context_length: int = 24,
) -> architecture.Architecture:
    """Two towers of different widths, with a joint space that is as wide as neither."""

    def transformer(width: int, causal: bool) -> architecture.Transformer:
        return architecture.Transformer(width, layers, heads, 3 * width, activation, causal=causal)

    return architecture.Architecture(
        architecture.Image(image_size, patch_size, transformer(image_width, causal=False)),
        architecture.TextSizes(tokenizer().get_vocab_size(), context_length, transformer(text_width, causal=True)),
        embed_dim,
    )


def theta(sizes: architecture.Architecture, seed: int = 0) -> dict:
    """Random parameters, none of them zero or one: what is left out of a computation shows."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        normals = rng.standard_normal(shape, np.float32)
        if path == "logit_scale":
            return np.float32(2.0) + 0 * normals
        if path.endswith("kernel"):
            return normals * np.float32(sizes.text.transformer.width**-0.5)
        return normals * np.float32(0.3) + np.float32(path.endswith("scale"))

    shapes = weights.parameter_shapes(sizes)
    return unflatten_dict({path: draw(path, shape) for path, shape in shapes.items()}, sep="/")


def hugging_face_folder(path: Path, seed: int = 0, **chosen) -> Path:
    """Writes a random CLIP as a Hugging Face folder; `chosen` goes to `sizes`."""
    made, backend = sizes(**chosen), tokenizer()
    path.mkdir(parents=True, exist_ok=True)
    ids = (backend.token_to_id(START), backend.token_to_id(END))
    preprocessing = Preprocessing(size=made.image.image_size, crop=made.image.image_size)
    (path / "config.json").write_text(json.dumps(hugging_face.write_config(made, *ids)))
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessing.to_hugging_face()))
    backend.save(str(path / "tokenizer.json"))
    weights.save_weights(path / "model.safetensors", hugging_face.CLIP, theta(made, seed))
    return path


def small_run(images: Path, clip: Path, **others) -> dict:
    """The settings of a run on a folder of images with such a CLIP, which is written; two shots, in no time."""
    return {
        "dataset": f"folder:{images}",
        "clip": str(hugging_face_folder(clip, layers=1)),
        "noise": NOISE,
        "template": "x the {}.",
        **{"shots": 2, "views": 1, "num_draws": 2},
        **others,
    }


def random(shapes, seed: int = 0):
    """Arrays of these shapes, none like another and all of about unit size in a layer; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, x: jax.ShapeDtypeStruct) -> np.ndarray:
        normals = rng.standard_normal(x.shape, np.float32)
        if path[-1].key == "var":
            return np.abs(normals) + np.float32(0.1)
        return normals / np.float32(np.prod(x.shape[:-1])) ** np.float32(0.5)

    return jax.tree.map_with_path(draw, shapes)


@functools.cache
def load() -> pretrained.Pretrained:
    """A random CLIP of one layer."""
    with tempfile.TemporaryDirectory() as folder:
        return pretrained.load_clip(str(hugging_face_folder(Path(folder), layers=1)))


def make_prompts() -> prompts.Prompts:
    """Prompts for it, with five shared tokens and names of different lengths."""
    clip = load()
    return prompts.build(clip.tokenizer, "x x the {}.", NAMES, clip.text_tower.sizes)


def make_text() -> Text:
    """The same prompts, beside the features that plain CLIP has for them."""
    clip, built = load(), make_prompts()
    return Text(zero_shot.encode_classes(clip.text_tower, clip.theta, built), built)


def make_injector() -> Injector:
    """Noise at both sites."""
    return Injector(load().text_tower, sites.build_noise(NOISE))
