"""A frozen CLIP with everything that belongs to it, from whatever the user names."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from pini_jax.clip import architecture, positions, tokenizer, towers
from pini_jax.clip.checkpoints import hub, hugging_face, open_clip, weights
from pini_jax.clip.checkpoints import tensors as tensor_files
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.clip.resnet import ResNetTower
from pini_jax.core import copies, files
from pini_jax.core.errors import InputError
from pini_jax.core.paths import check_address
from pini_jax.core.shapes import Parameters
from pini_jax.core.wording import plain, quoted

LOG = logging.getLogger(__name__)
_ADAPTED = re.compile(r"^base_model\.|\.(base_layer|lora_[A-Z]|lora_embedding_[AB]|modules_to_save)\.")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A frozen CLIP.

    Attributes:
        image_tower, text_tower: modules, whose stages are pure functions of (theta, inputs).
        theta: {"image": ..., "text": ..., "logit_scale": ...}, the frozen parameters.
        tokenizer: text -> ids.
        preprocessing: image -> pixels.
        fingerprint: SHA-256 of the weight files, the sizes, the tokenizer and the pre-processing.
        source: what it was loaded from; of the hub with the commit, `owner/name@commit`.
    """

    image_tower: towers.ImageTower | ResNetTower
    text_tower: towers.TextTower
    theta: Parameters
    tokenizer: tokenizer.Tokenizer
    preprocessing: Preprocessing
    fingerprint: str
    source: str

    @property
    def embed_dim(self) -> int:
        """e, channels of the joint space."""
        return self.image_tower.embed_dim


class Format(NamedTuple):
    """What the files of a checkpoint say: sizes, names of tensors, and what images it wants."""

    sizes: architecture.Architecture
    scheme: weights.Scheme
    preprocessing: Preprocessing


def load_clip(
    source: str,
    tokenizer_source: str = "",
    dtype: jnp.dtype = jnp.float32,
    image_size: int = 0,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Loads a CLIP.

    Args:
        source: `tiny_clip` (the bundled one); a folder or hub id (such as `openai/clip-vit-base-patch16`, or with
            a branch, tag or commit `owner/name@revision`) of Hugging Face's CLIP, SigLIP or SigLIP 2, or of
            open_clip; or a weight file (safetensors, or an archive of PyTorch) with the parameter names of OpenAI
            or of Hugging Face.
        tokenizer_source: folder with the tokenizer's files; "" takes those beside the weights.
        dtype: in which the towers hold their weights and compute.
        image_size: pixels of the images; positions are interpolated. 0 takes the checkpoint's own size.
        mesh: the devices that hold the parameters, split as `checkpoints.sharding` says; None is JAX's default
            device.

    Raises:
        InputError: there is no such checkpoint, or it is no CLIP, or its tensors do not fit, or the mesh cannot
            split its towers.
    """
    check_address("tokenizer", tokenizer_source)
    path, pinned = hub.locate(source, tokenizer=not tokenizer_source)
    folder, weight_files = (path, tensor_files.files_of(path)) if path.is_dir() else (path.parent, [path])
    tensors = tensor_files.index(weight_files)
    sizes, scheme, preprocessing = _recognise(folder, {key: x.shape for key, x in tensors.items()})
    theta: Parameters = weights.load_weights(scheme, sizes, tensors, dtype, name=source, mesh=mesh)
    words = tokenizer.load_tokenizer(copies.local(tokenizer_source) if tokenizer_source else folder)
    if (known := words.vocab_size) > sizes.text.vocab_size:
        raise InputError(
            f"the tokenizer knows {known} tokens, but {source} was trained on {sizes.text.vocab_size}"
        )
    if image_size:
        preprocessing = preprocessing.at(image_size)
        sizes, theta = resize(sizes, theta, image_size)
    elif preprocessing.crop != sizes.image.image_size:
        raise InputError(
            f"{source} wants images of {preprocessing.crop} pixels, but its tower reads {sizes.image.image_size}: "
            "set image_size to one of them"
        )
    digest = hashlib.sha256(tensor_files.fingerprint(weight_files).encode())
    digest.update(f"{sizes} {preprocessing} {words.content}".encode())
    return Pretrained(
        image_tower=towers.image_tower(sizes, dtype),
        text_tower=towers.TextTower(sizes.text, sizes.embed_dim, dtype),
        theta=theta,
        tokenizer=words,
        preprocessing=preprocessing,
        fingerprint=digest.hexdigest(),
        source=pinned,
    )


def resize(
    sizes: architecture.Architecture, theta: Parameters, image_size: int
) -> tuple[architecture.Architecture, Parameters]:
    """The CLIP for images of image_size pixels: its positional embeddings are interpolated.

    Raises:
        InputError: the images are smaller than a patch.
    """
    old, new = sizes.image, dataclasses.replace(sizes.image, image_size=image_size)
    sizes = _checked(dataclasses.replace(sizes, image=new))
    if old.grid == new.grid:
        return sizes, theta
    flat = flatten_dict(theta, sep="/")
    (path,) = flat.keys() & {"image/position", "image/pool/position"}
    flat[path] = positions.resample(flat[path], old.grid, new.grid, old.filter)
    return sizes, unflatten_dict(flat, sep="/")


def _recognise(folder: Path, shapes: Mapping[str, weights.Shape]) -> Format:
    """By the names of the tensors, then by the config beside them."""
    _refuse_wrapped(shapes)
    openai = any(key.startswith("visual.") for key in shapes)
    config = folder / ("open_clip_config.json" if openai else "config.json")
    try:
        if not openai:
            return _hugging_face(folder, _read_json(config))
        if config.exists():
            return _open_clip(_read_json(config), shapes)
        return _openai(folder, shapes)
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{config} does not describe a CLIP ({plain(repr(error))})") from None


def _refuse_wrapped(keys: Collection[str]) -> None:
    """What wraps a model puts its own name before those of the tensors, or an adapter's within."""
    matches = (re.match(r"(.+?\.)(?:visual|vision_model|text_model)\.", key) for key in keys)
    prefix = next((match[1] for match in matches if match), None)
    adapted = next((key for key in keys if _ADAPTED.search(key)), None)
    if prefix:
        what = f"the tensors' names begin with {quoted(prefix)}"
    elif adapted:
        what = f"the tensors' names are such as {plain(adapted)}"
    else:
        return
    remedy = "save what lies within, without that prefix"
    if adapted:
        remedy = "they are those of a PEFT adapter, which merge_and_unload() puts into the model: save that"
    raise InputError(f"{what}: {remedy}")


def _checked(sizes: architecture.Architecture) -> architecture.Architecture:
    architecture.check_sizes(sizes, known_activations=towers.ACTIVATIONS)
    return sizes


def _hugging_face(folder: Path, config: Mapping[str, Any]) -> Format:
    kind, sizes = hugging_face.kind(config), _checked(hugging_face.read_hugging_face_config(config))
    return Format(sizes, kind.scheme, _preprocessing(folder, sizes, kind.processor))


def _open_clip(config: Mapping[str, Any], shapes: Mapping[str, weights.Shape]) -> Format:
    sizes = _checked(open_clip.read_open_clip_config(config))
    preprocessing = Preprocessing.from_open_clip(config.get("preprocess_cfg") or {}, sizes.image.image_size)
    return Format(sizes, open_clip.scheme(sizes, tuple(shapes)), preprocessing)


def _openai(folder: Path, shapes: Mapping[str, weights.Shape]) -> Format:
    LOG.info("no open_clip_config.json: taken for OpenAI's own, with quick_gelu and heads of 64 channels")
    sizes = _checked(open_clip.read_shapes(shapes))
    return Format(
        sizes, open_clip.scheme(sizes, tuple(shapes)), _preprocessing(folder, sizes, "CLIPImageProcessor")
    )


def _preprocessing(folder: Path, sizes: architecture.Architecture, processor: str) -> Preprocessing:
    """What the folder says; transformers 5 saves it within processor_config.json."""
    alone, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.exists():
        return Preprocessing.from_hugging_face(_read_json(alone))
    if whole.exists() and (settings := _read_json(whole).get("image_processor")):
        return Preprocessing.from_hugging_face(settings)
    LOG.info("%s is missing: images are taken as %s takes them", alone, processor)
    return Preprocessing.from_hugging_face({"image_processor_type": processor}).at(sizes.image.image_size)


def tower_dtype(name: str) -> jnp.dtype:
    """The dtype of the towers; `auto` is float32 on CPU and bfloat16 on accelerators."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"{path.parent} is no Hugging Face CLIP: {path.name} is missing")
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content
