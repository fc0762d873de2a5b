"""transformers in PyTorch; it also makes the models that all load: `write MODELS`, `archive SOURCE FILE`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from benchmarks import torch_models
from benchmarks.peers import worker
from benchmarks.peers.worker import Towers

torch.set_num_threads(os.cpu_count() or 1)


def load(path: Path, kind: str) -> Towers:
    """With the attention that transformers takes by default."""
    model = torch_models.CLASSES[kind].from_pretrained(path, dtype=torch.float32).eval()
    return Towers(
        lambda pixels: torch_models.image_features(model, pixels),
        lambda ids: torch_models.text_features(model, ids),
        lambda ids: torch_models.text_features(model, worker.longest(ids)),
    )


def write(folder: Path, config: dict, layout: str) -> None:
    """A random model of this config; where there are inputs, what it makes of them stands in `expected.npz`.

    Args:
        layout: of `LAYOUTS`.
    """
    folder.mkdir(exist_ok=True)
    LAYOUTS[layout](torch_models.build(config, seed=0), folder)
    if (folder / "inputs.npz").exists():
        given, towers = np.load(folder / "inputs.npz"), load(folder, config["model_type"])
        features = dict(images=towers.images(given["pixels"]), texts=towers.texts(given["ids"]))
        np.savez(folder / "expected.npz", kind=config["model_type"], **given, **features)


def _pickled(model: torch.nn.Module, folder: Path) -> None:
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


LAYOUTS = {
    "whole": lambda model, folder: model.save_pretrained(folder),
    "shards": lambda model, folder: model.save_pretrained(folder, max_shard_size="1MB"),
    "half": lambda model, folder: model.half().save_pretrained(folder),
    "pickled": _pickled,
}


def archive(source: Path, file: Path) -> None:
    """A TorchScript archive, as OpenAI's files are, of the tensors in a safetensors file."""
    root = torch.nn.Module()
    for name, tensor in load_file(source).items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, torch.nn.Parameter(tensor))
    torch.jit.script(root).save(str(file))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    command, *arguments = sys.argv[1:]
    if command == "write":
        for made in json.loads(arguments[0]):
            write(Path(made["folder"]), made["config"], made["layout"])
    elif command == "archive":
        archive(*map(Path, arguments))
    else:
        worker.main(load)
