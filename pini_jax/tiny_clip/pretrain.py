"""Contrastive pre-training of a small CLIP on pictures of digits and letters: makes the bundled checkpoint.

    python -m pini_jax.pretrain --config=configs/tiny_clip.py --workdir=DIR

writes the Hugging Face folder DIR/tiny_clip. Step i is a pure function of (seed, i, parameters).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
import tokenizers
from jaxtyping import Array, Bool, Float, Int
from tokenizers import decoders, models, pre_tokenizers, processors
from tqdm import tqdm

from pini_jax.clip import architecture, towers
from pini_jax.clip.checkpoints import hub, hugging_face, weights
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.clip.tokenizer import END, NORMALIZER, PRE_TOKENIZER, START, Tokenizer, from_backend
from pini_jax.core import rng
from pini_jax.core.errors import InputError
from pini_jax.tiny_clip import glyphs

HEAD_WIDTH = 32
EVAL_CAPTION = glyphs.TEMPLATES.index("a photo of the {kind} {name}.")
EVAL_IMAGES = 2048
EVAL_EVERY = 200  # steps


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of pre-training.

    Attributes:
        seed: of the initial parameters, the pictures and the captions.
        steps: of AdamW, each on batch_size pictures and as many captions.
        curriculum_steps: over which pictures go from plain to the full range of looks.
        learning_rate: after warmup_steps; it ends at 0, on a cosine.
        max_context: most `x` words before a caption.
        held_out_fonts: drawn for evaluation only.
        image_size: pixels, a multiple of patch_size and of glyphs.COARSEST.
        context_length: most tokens of a caption.
        embed_dim: e, channels of the joint space.
    """

    seed: int
    steps: int
    batch_size: int
    curriculum_steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    max_context: int
    held_out_fonts: tuple[str, ...]
    image_size: int
    patch_size: int
    image_width: int
    image_layers: int
    context_length: int
    text_width: int
    text_layers: int
    embed_dim: int

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Recipe:
        """Reads a ConfigDict that has exactly the attributes as keys.

        Raises:
            InputError: a key is unknown or missing, or values do not go together.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if wrong := sorted(names ^ set(config)):
            raise InputError(f"keys of the recipe that are unknown or missing: {', '.join(wrong)}")
        if config.image_size % math.lcm(config.patch_size, glyphs.COARSEST):
            raise InputError(f"image_size must be a multiple of patch_size and of {glyphs.COARSEST}")
        if config.warmup_steps >= config.steps:
            raise InputError("warmup_steps must be less than steps")
        return cls(**config)

    @property
    def preprocessing(self) -> Preprocessing:
        """Pixels in [-1, 1]."""
        return Preprocessing(self.image_size, self.image_size, mean=(0.5,) * 3, std=(0.5,) * 3)

    def architecture(self, vocab_size: int) -> architecture.Architecture:
        """The sizes of the towers."""

        def transformer(width: int, layers: int, causal: bool) -> architecture.Transformer:
            return architecture.Transformer(width, layers, width // HEAD_WIDTH, 4 * width, causal=causal)

        image = transformer(self.image_width, self.image_layers, causal=False)
        text = transformer(self.text_width, self.text_layers, causal=True)
        return architecture.Architecture(
            architecture.Image(self.image_size, self.patch_size, image),
            architecture.TextSizes(vocab_size, self.context_length, text),
            self.embed_dim,
        )


def build_tokenizer() -> Tokenizer:
    """CLIP's byte-level BPE, with merges that make one token of every word of the captions."""
    words = sorted({word for text in glyphs.all_captions() for word in re.findall(r"[a-z]+", text)})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(dict.fromkeys(merge for word in words for merge in _merges(word)))
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=END, end_of_word_suffix="</w>"))
    backend.normalizer, backend.pre_tokenizer = NORMALIZER, PRE_TOKENIZER
    backend.post_processor = processors.RobertaProcessing(
        (END, vocab[END]), (START, vocab[START]), trim_offsets=False, add_prefix_space=False
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([START, END])
    return from_backend(backend)


def _merges(word: str) -> Iterable[tuple[str, str]]:
    """("t", "h"), ("th", "e</w>") of "the": joined from the left, one letter at a time."""
    letters = [*word[:-1], word[-1] + "</w>"]
    return zip(itertools.accumulate(letters[:-1]), letters[1:], strict=True)


class State(NamedTuple):
    """Everything that a step changes."""

    theta: dict[str, Any]
    moments: optax.OptState


def contrastive_loss(
    image: Float[Array, "b e"], text: Float[Array, "c e"], same: Bool[Array, "b c"], log_scale: Array
) -> Float[Array, ""]:
    """mean_i mean_{j: same_ij} -log softmax_j(exp(s) cos(image_i, text_j)), averaged with its transpose.

    CLIP's loss where several captions suit a picture; every row and column of `same` has a true entry.
    """
    image, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    logits = jnp.exp(log_scale) * image @ text.T

    def one_way(logits: Array, same: Array) -> Array:
        return optax.softmax_cross_entropy(logits, same / same.sum(axis=1, keepdims=True)).mean()

    return (one_way(logits, same) + one_way(logits.T, same.T)) / 2


def pretraining_optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW with a warm-up and a cosine to zero; gradients of norm at most 1; only kernels decay."""
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, recipe.warmup_steps, recipe.steps)
    kernels = partial(jax.tree.map_with_path, lambda path, _: path[-1].key == "kernel")
    adamw = optax.adamw(rate, weight_decay=recipe.weight_decay, mask=kernels)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def draw_pictures(
    key: jax.Array, bank: glyphs.Bank, recipe: Recipe, number: int, strength: float | Array
) -> tuple[Float[Array, "b h w 3"], Int[Array, "b"]]:
    """Pixels, normalised, and names."""
    which, look = jax.random.split(key)
    glyph = jax.random.choice(which, len(bank.name), (number,), p=bank.probability)
    pixels = glyphs.render_glyphs(look, bank, glyph, recipe.image_size, strength)
    mean, std = jnp.array(recipe.preprocessing.mean), jnp.array(recipe.preprocessing.std)
    return (pixels - mean) / std, bank.name[glyph]


def initial_pretraining(recipe: Recipe, model: towers.ClipModel) -> State:
    """The state before step 0."""
    pixels = jnp.zeros((1, recipe.image_size, recipe.image_size, 3))
    ids = jnp.zeros((1, recipe.context_length), int)
    key = rng.stream(rng.root(recipe.seed), "init")
    theta = jax.jit(model.init)(key, pixels, ids, jnp.zeros(1, int))["params"]
    return State(theta, pretraining_optimiser(recipe).init(theta))


@partial(jax.jit, static_argnames=("recipe", "model"), donate_argnames="state")
def pretraining_step(
    state: State,
    bank: glyphs.Bank,
    captions: glyphs.Captions,
    step: Int[Array, ""],
    *,
    recipe: Recipe,
    model: towers.ClipModel,
) -> tuple[State, Float[Array, ""]]:
    """One step of AdamW on fresh pictures and captions: the next state and the loss."""
    picture_key, caption_key = jax.random.split(rng.stream(rng.root(recipe.seed), "train", step))
    strength = jnp.minimum(step / max(recipe.curriculum_steps, 1), 1.0)
    pixels, name = draw_pictures(picture_key, bank, recipe, recipe.batch_size, strength)
    ids, end = glyphs.draw_captions(caption_key, captions, name, recipe.max_context)

    def loss_fn(theta: dict[str, Any]) -> Array:
        image, text, log_scale = towers.stage(model, "__call__", theta, pixels, ids, end)
        return contrastive_loss(image, text, name[:, None] == name, log_scale)

    loss, gradient = jax.value_and_grad(loss_fn)(state.theta)
    updates, moments = pretraining_optimiser(recipe).update(gradient, state.moments, state.theta)
    return State(optax.apply_updates(state.theta, updates), moments), loss


@partial(jax.jit, static_argnames=("recipe", "model"))
def name_accuracy(
    theta: dict[str, Any], bank: glyphs.Bank, captions: glyphs.Captions, *, recipe: Recipe, model: towers.ClipModel
) -> Float[Array, ""]:
    """Share of EVAL_IMAGES pictures, at full strength, that are nearest to the EVAL_CAPTION of their name."""
    key = rng.stream(rng.root(recipe.seed), "eval")
    pixels, name = draw_pictures(key, bank, recipe, EVAL_IMAGES, strength=1.0)
    ids, end = glyphs.compose(captions, EVAL_CAPTION, jnp.arange(len(glyphs.NAMES)), 0, max_context=0)
    image, text, _ = towers.stage(model, "__call__", theta, pixels, ids, end)
    text /= jnp.linalg.norm(text, axis=-1, keepdims=True)
    return (jnp.argmax(image @ text.T, axis=1) == name).mean()


def run_recipe(recipe: Recipe, tokenizer: Tokenizer) -> tuple[dict[str, Any], list[float]]:
    """Runs the recipe: the parameters, and the loss of every step.

    Raises:
        InputError: a held-out font is unknown, or captions do not fit in the context length.
    """
    bank = glyphs.load_bank([font for font in glyphs.FONTS if font not in recipe.held_out_fonts])
    held_out = glyphs.load_bank(recipe.held_out_fonts)
    captions = glyphs.load_captions(tokenizer)
    longest = recipe.max_context + captions.ids.shape[-1] + 2
    if longest > recipe.context_length:
        raise InputError(f"captions of {longest} tokens exceed context_length={recipe.context_length}")
    model = towers.ClipModel(recipe.architecture(tokenizer.vocab_size))
    state, losses, correct = initial_pretraining(recipe, model), [], 0.0
    for step in (bar := tqdm(range(recipe.steps), unit="step")):
        state, loss = pretraining_step(state, bank, captions, jnp.array(step), recipe=recipe, model=model)
        losses.append(float(loss))
        if (step + 1) % EVAL_EVERY == 0 or step + 1 == recipe.steps:
            correct = float(name_accuracy(state.theta, held_out, captions, recipe=recipe, model=model))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", held_out_fonts=f"{correct:.3f}", refresh=False)
    return state.theta, losses


def export_clip(folder: Path, recipe: Recipe, tokenizer: Tokenizer, theta: Mapping[str, Any]) -> None:
    """Writes a folder in Hugging Face's format that `load_clip` and transformers read; replaces an older one."""
    sizes = recipe.architecture(tokenizer.vocab_size)
    settings = {
        "config.json": hugging_face.write_config(sizes, tokenizer.start_ids[0], tokenizer.end_id),
        "preprocessor_config.json": recipe.preprocessing.to_hugging_face(),
        "tokenizer_config.json": dict(tokenizer_class="CLIPTokenizer", model_max_length=recipe.context_length),
    }
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights.save_weights(part / "model.safetensors", hugging_face.CLIP, theta)
    tokenizers.Tokenizer.from_str(tokenizer.content).save(str(part / "tokenizer.json"))
    for name, content in settings.items():
        (part / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def pretrain(recipe: Recipe, workdir: Path) -> Path:
    """Trains and exports; returns the folder."""
    tokenizer = build_tokenizer()
    folder = workdir / hub.BUNDLED.name
    export_clip(folder, recipe, tokenizer, run_recipe(recipe, tokenizer)[0])
    return folder
