"""A frozen CLIP with everything that belongs to it, from whatever the user names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp

from pini_jax.clip import architecture, tokenizer, towers, weights
from pini_jax.clip import tensors as tensor_files
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.clip.resnet import ResNetTower
from pini_jax.errors import InputError

LOG = logging.getLogger(__name__)
BUNDLED = Path(__file__).parent.parent / "assets" / "tiny_clip"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A frozen CLIP.

    Attributes:
        image_tower, text_tower: modules, whose stages are pure functions of (theta, inputs).
        theta: {"image": ..., "text": ..., "logit_scale": ...}, the frozen parameters.
        tokenizer: text -> ids.
        preprocessing: image -> pixels.
        fingerprint: SHA-256 of the weight files, the sizes, the tokenizer and the pre-processing.
    """

    image_tower: towers.ImageTower | ResNetTower
    text_tower: towers.TextTower
    theta: dict
    tokenizer: tokenizer.Tokenizer
    preprocessing: Preprocessing
    fingerprint: str

    @property
    def embed_dim(self) -> int:
        """e, channels of the joint space."""
        return self.image_tower.embed_dim


def load(source: str, tokenizer_source: str = "", dtype: jnp.dtype = jnp.float32) -> Pretrained:
    """Loads a CLIP.

    Args:
        source: `tiny_clip` (the bundled one), a Hugging Face folder, a weight file (safetensors, or an archive
            of PyTorch) with OpenAI's or Hugging Face's parameter names, or a hub id such as
            `openai/clip-vit-base-patch16`.
        tokenizer_source: folder with the tokenizer's files; "" takes those beside the weights.
        dtype: in which the towers hold their weights and compute.

    Raises:
        InputError: there is no such checkpoint, or it is no CLIP, or its tensors do not fit.
    """
    path = _locate(source)
    folder, files = (path, tensor_files.files_of(path)) if path.is_dir() else (path.parent, [path])
    with tensor_files.open_tensors(files) as tensors:
        if "visual.conv1.weight" in tensors:
            LOG.info("OpenAI's parameter names: taken with OpenAI's quick_gelu, and heads of 64 channels")
            sizes = architecture.from_openai({key: tensor.shape for key, tensor in tensors.items()})
            scheme = weights.openai(sizes)
        else:
            scheme = weights.HUGGING_FACE
            sizes = architecture.from_hugging_face(_read_json(folder / "config.json"))
        architecture.check(sizes, known_activations=towers.ACTIVATIONS)
        theta = weights.load(scheme, sizes, tensors, dtype, name=source)
    words = tokenizer.load(Path(tokenizer_source) if tokenizer_source else folder)
    if (size := words.backend.get_vocab_size()) > sizes.text.vocab_size:
        raise InputError(f"the tokenizer knows {size} tokens, but {source} was trained on {sizes.text.vocab_size}")
    preprocessing = _preprocessing(folder / "preprocessor_config.json", sizes.image.image_size)
    digest = hashlib.sha256(tensor_files.fingerprint(files).encode())
    digest.update(f"{sizes} {preprocessing} {words.backend.to_str()}".encode())
    return Pretrained(
        image_tower=towers.image_tower(sizes, dtype),
        text_tower=towers.TextTower(sizes.text, sizes.embed_dim, dtype),
        theta=theta,
        tokenizer=words,
        preprocessing=preprocessing,
        fingerprint=digest.hexdigest(),
    )


def _preprocessing(path: Path, image_size: int) -> Preprocessing:
    if not path.exists():
        LOG.info("%s is missing: images are taken as OpenAI's CLIP takes them", path)
        return Preprocessing(size=image_size, crop=image_size)
    preprocessing = Preprocessing.from_hugging_face(_read_json(path))
    if preprocessing.crop != image_size:
        raise InputError(f"{path} crops to {preprocessing.crop} pixels, but the tower reads {image_size}")
    return preprocessing


def tower_dtype(name: str) -> jnp.dtype:
    """The dtype of the towers; `auto` is float32 on CPU and bfloat16 on accelerators."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _locate(source: str) -> Path:
    if source == BUNDLED.name:
        return BUNDLED
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _download(source)
    raise InputError(f"clip={source!r}: no such folder or file, and no hub id (owner/name)")


def _download(hub_id: str) -> Path:
    import huggingface_hub  # slow to import, and needed for hub ids only

    try:
        for weights_file in ("*.safetensors", "pytorch_model.bin"):
            patterns = ["*.json", "merges.txt", weights_file]
            folder = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns))
            if list(folder.glob(weights_file)):
                break
        return folder
    except Exception as error:  # offline, unknown id, gated: the hub's own words say which
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"clip={hub_id!r} is neither a local folder, nor in the hub's cache, nor could it be fetched "
            f"({reason}); on a machine with a network run `hf download {hub_id}`, copy the folder, and name it"
        ) from None


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path.parent} is no Hugging Face CLIP: {path.name} is missing") from None
    except ValueError as error:
        raise InputError(f"{path} is no valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content
