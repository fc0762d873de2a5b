"""What a user would otherwise run: the same step and the same towers in plain PyTorch, on transformers' CLIPModel.

The step is that of the released configuration: the 77 tokens of every class go through the text tower, forwards
and backwards, and the frozen weights want no gradient. On a GPU if PyTorch has one.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open

from benchmarks import inputs, timing
from benchmarks.accelerator.sizes import SIZES
from benchmarks.inputs import Numbers, Whole
from pini_jax.clip.architecture import Architecture

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(folder: Path, dtype: str = "float32", attention: str = "sdpa") -> transformers.CLIPModel:
    """The frozen model.

    Args:
        attention: of `attentions`.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    settings = dict(dtype=getattr(torch, dtype), attn_implementation=attention)
    clip = transformers.CLIPModel.from_pretrained(folder, **settings).eval()
    with safe_open(folder / "model.safetensors", "pt") as file:  # 16 bits are too few for an exponent
        clip.logit_scale.data = file.get_tensor("logit_scale")
    return clip.requires_grad_(False).to(DEVICE)


def attentions() -> list[str]:
    """The fast ones that are installed; PyTorch's own, `sdpa`, takes the fastest kernel that it has."""
    return ["sdpa", *["flash_attention_2"] * transformers.utils.is_flash_attn_2_available()]


def tensor(x: np.ndarray) -> torch.Tensor:
    """On the device."""
    return torch.tensor(np.asarray(x), device=DEVICE)


def images(pixels: np.ndarray) -> torch.Tensor:
    """[b h w 3] as PyTorch has it."""
    return tensor(pixels).permute(0, 3, 1, 2).contiguous()


def memory() -> int:
    """The bytes that there are for a step."""
    return timing.memory_limit() if DEVICE == "cpu" else torch.cuda.get_device_properties(0).total_memory


def lacks_memory(error: Exception) -> bool:
    """Whether it says so; of the host's memory PyTorch says it in an error of any kind."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def reason(error: Exception) -> str:
    """Why something is left out, in a line."""
    if lacks_memory(error):
        return f"does not fit {memory() / 1e9:.0f} GB"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def finished(x: torch.Tensor) -> float:
    """A number of the tensor, for which a GPU is waited."""
    return x.flatten()[0].item()


@torch.no_grad()
def encode_images(clip: transformers.CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Features, un-normalised."""
    return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)


@torch.no_grad()
def encode_texts(clip: transformers.CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """Features, un-normalised; all texts are taken for whole, which is PyTorch's fastest path."""
    return clip.text_projection(clip.text_model(input_ids=ids).pooler_output)


class Noise(torch.nn.Module):
    """The trainables: a table for the prompt's tokens, and cross attention from images to texts."""

    def __init__(self, phi: Mapping):
        super().__init__()
        self.mean, self.scale = (torch.nn.Parameter(tensor(phi["prompt_tokens"][x])) for x in ("mean", "scale"))
        self.linears = torch.nn.ModuleDict({x: _linear(part) for x, part in phi["image_features"].items()})

    def of_images(self, features: torch.Tensor, text: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """f + mu + sigma z."""
        scores = self.linears["query"](features) @ self.linears["key"](text).T
        attended = scores.softmax(-1) @ self.linears["value"](text)
        return features + self.linears["mean"](attended) + self.linears["scale"](attended).abs() * normals


def _linear(part: Mapping) -> torch.nn.Linear:
    linear = torch.nn.Linear(*part["kernel"].shape, device=DEVICE)
    with torch.no_grad():
        linear.weight.copy_(tensor(part["kernel"].T))
        linear.bias.copy_(tensor(part["bias"]))
    return linear


class Training:
    """The state of a training, and its step."""

    def __init__(self, clip: transformers.CLIPModel, prompts: Whole, numbers: Numbers, lr: float):
        self.clip, self.noise = clip, Noise(numbers.phi)
        self.ids, self.end, self.labels = tensor(prompts.ids), tensor(prompts.end), tensor(numbers.labels).long()
        self.optimiser = torch.optim.SGD(self.noise.parameters(), lr, momentum=0.9, weight_decay=5e-4)

    def text_features(self, normals: torch.Tensor) -> torch.Tensor:
        """Of prompts with one draw of noise for all classes."""
        tower, noise = self.clip.text_model, self.noise.mean + self.noise.scale * normals
        x = tower.embeddings(input_ids=self.ids)
        stop = 1 + len(noise)
        x = torch.cat([x[:, :1], x[:, 1:stop] + noise.to(x.dtype), x[:, stop:]], dim=1)
        x = tower.final_layer_norm(tower.encoder(inputs_embeds=x, is_causal=True).last_hidden_state)
        return self.clip.text_projection(x[torch.arange(len(x)), self.end]).float()

    def step(self, features: torch.Tensor, normals: Mapping[str, torch.Tensor] | None = None) -> float:
        """One update; its loss. Draws are fresh unless given."""
        normals = normals or {
            "prompt_tokens": torch.randn_like(self.noise.mean),
            "image_features": torch.randn_like(features),
        }
        text = self.text_features(normals["prompt_tokens"])
        noisy = self.noise.of_images(features, text, normals["image_features"])
        unit = torch.nn.functional.normalize
        logits = self.clip.logit_scale.exp() * unit(noisy) @ unit(text).T
        loss = torch.nn.functional.cross_entropy(logits, self.labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def replay(self, features: torch.Tensor, normals: Mapping[str, np.ndarray]) -> float:
        """The step with given draws."""
        prompt, image = normals["prompt_tokens"][0], normals["image_features"][0, 0]
        return self.step(features, dict(prompt_tokens=tensor(prompt), image_features=tensor(image)))


def begin(clip: transformers.CLIPModel, sizes: Architecture, classes: int, steps: int) -> tuple[Training, Numbers]:
    """A training, and what it is given, with draws of so many steps."""
    prompts = inputs.make_prompts(inputs.LENGTHS[classes], sizes.text.vocab_size)
    numbers = inputs.make_numbers(sizes, prompts, steps)
    return Training(clip, inputs.whole(prompts, sizes.text.context_length), numbers, inputs.LR), numbers


def serve_steps(folder: Path, name: str, dtype: str, numbers_of_classes: list[int]) -> None:
    """The worker of `accelerator.peers`: the loss of a step with given draws by the number of classes."""
    clip, works, losses, left_out = load(folder, dtype), {}, {}, {}
    for classes in numbers_of_classes:
        training, numbers = begin(clip, SIZES[name], classes, steps=1)
        features, key = tensor(numbers.features), str(classes)
        try:
            losses[key] = training.replay(features, numbers.normals[0])
            works[key] = functools.partial(training.step, features)
        except RuntimeError as error:
            left_out[key] = reason(error)
    timing.serve(works, losses=losses, left_out=left_out)


def serve_step(folder: Path, classes: int, tower: str) -> None:
    """The worker of a row of `step`: losses of steps with given draws, then as many steps as are asked for."""
    training, numbers = begin(load(folder), inputs.VIT_B_16, classes, inputs.STEPS[classes])
    pixels, given = images(numbers.pixels), tensor(numbers.features)

    def features() -> torch.Tensor:
        return encode_images(training.clip, pixels) if tower == "in" else given

    losses = []
    try:
        losses += [training.replay(features(), normals) for normals in numbers.normals]
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        return timing.serve({}, refused=reason(error), device=DEVICE)
    timing.serve({"step": lambda: training.step(features())}, losses=losses, device=DEVICE)


def serve_encode(folder: Path, sides: list[int]) -> None:
    """The worker of `encode`."""
    sizes, clip = inputs.VIT_B_16, load(folder)
    pixels = images(inputs.make_pixels(sizes.image.image_size))
    texts = inputs.whole(inputs.make_texts(sizes.text.vocab_size), sizes.text.context_length)
    padded, longest = tensor(texts.ids), tensor(texts.ids[:, : texts.end.max() + 1])
    matrices = {side: torch.randn(side, side, device=DEVICE) for side in sides}
    works = {
        "images": lambda: finished(encode_images(clip, pixels)),
        "padded": lambda: finished(encode_texts(clip, padded)),
        "longest": lambda: finished(encode_texts(clip, longest)),
    }
    works |= {f"product {side}": (lambda m=m: finished(m @ m)) for side, m in matrices.items()}
    for work in works.values():
        work()
    timing.serve(works, device=DEVICE)


def ways(clip: transformers.CLIPModel, pixels: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """The image tower as PyTorch runs it, and as it compiles it."""

    def encode() -> torch.Tensor:
        return encode_images(clip, pixels)

    return {"as it is": encode, "compiled": torch.compile(encode)}


def serve_images(folder: Path, batch: int, dtype: str) -> None:
    """The worker of `accelerator.image_peers`: every way that works here. Their features go to WAY.npy."""
    works, left_out = {}, {}
    for attention in attentions():
        clip = load(folder, dtype, attention)
        pixels = images(inputs.make_pixels(clip.config.vision_config.image_size, batch)).to(getattr(torch, dtype))
        for name, encode in ways(clip, pixels).items():
            way = f"{attention}, {name}"
            try:
                np.save(folder / f"{way}.npy", encode().float().numpy(force=True))
                works[way] = lambda encode=encode: finished(encode())
            except Exception as error:  # a compiler that is missing is said in errors of many kinds
                left_out[way] = reason(error)
    timing.serve(works, ways=list(works), left_out=left_out)


def main(words: Sequence[str]) -> None:
    """What a worker does."""
    transformers.logging.set_verbosity_error()
    kind, path, *arguments = words
    if DEVICE == "cpu":
        timing.limit_memory()
    if kind == "step":
        number, place = arguments
        serve_step(Path(path), int(number), place)
    elif kind == "steps":
        name, dtype, *numbers_of_classes = arguments
        serve_steps(Path(path), name, dtype, [int(number) for number in numbers_of_classes])
    elif kind == "images":
        number, dtype = arguments
        serve_images(Path(path), int(number), dtype)
    else:
        serve_encode(Path(path), [int(side) for side in arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
