"""Encodes labelled images once, into a pack of features to train on.

    pini encode photos --clip=openai/clip-vit-base-patch16 --output=photos.npz

An INPUT is a folder of class folders, a table, or any other dataset that `pini train` reads: classes and splits
come along. Then `pini train --config=features:path=photos.npz` trains without the CLIP. What was stopped goes on:
features are kept in the cache as they are made.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import command, mesh
from pini_jax.core.errors import InputError, UsageError
from pini_jax.core.paths import refuse_bucket
from pini_jax.data.datasets import packs, sources
from pini_jax.task import frozen as frozen_halves
from pini_jax.task import run
from pini_jax.task.run import labels_of


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags: what encodes, the names of the classes, and where the pack goes."""
    flags.DEFINE_string("output", None, "The pack, a file .npz.", flag_values=values)
    flags.DEFINE_string("clip", Config.clip, "What encodes: as in a config.", flag_values=values)
    flags.DEFINE_string("tokenizer", "", "Folder of the tokenizer, if not beside the weights.", flag_values=values)
    flags.DEFINE_integer("image_size", 0, "Pixels of the images; 0 for the CLIP's own.", flag_values=values)
    flags.DEFINE_string("dtype", "auto", "Of the towers.", flag_values=values)
    flags.DEFINE_string("template", "coop", "Prompt, or a name of prompts, of the classes.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "Folder that relative datasets start from.", flag_values=values)


def main(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Writes the pack and prints what is in it."""
    output = Path(values.output)
    refuse_bucket("--output", values.output)
    if output.suffix != ".npz":
        raise InputError(f"--output={output}: a pack's name must end in .npz")
    if len(arguments) > 1:
        raise UsageError("name one INPUT: a pack is of one dataset")
    settings = {key: getattr(values, key) for key in ("clip", "tokenizer", "image_size", "dtype", "data_dir")}
    config = configs.resolve(settings | {"dataset": _dataset(arguments[0]), "zero_shot_template": values.template})
    pack = encode(config)
    packs.write_pack(output, pack)
    sizes = ", ".join(f"{len(pack[f'{split}_y'])} {split}" for split in packs.SPLITS)
    print(f"{output}: {len(pack['classnames'])} classes, {sizes} images, {pack['text'].shape[1]} features each")


def _dataset(name: str) -> str:
    return f"folder:{name}" if os.path.isdir(name) else name


def encode(config: Config) -> Mapping[str, np.ndarray]:
    """The arrays of a pack: features of all splits and of the classes, by the CLIP of a config.

    Raises:
        InputError: the dataset has no images, or it or the CLIP cannot be used.
    """
    if not sources.has_images(config.dataset):
        raise InputError(f"{config.dataset} holds features already")
    data, _ = run.open_dataset(config, config.dataset)
    frozen = frozen_halves.load_towers(config, mesh.make_mesh())
    text = frozen.text_features(config.zero_shot_template, config.dataset, data.class_names)[0]
    pack = {"classnames": np.array(data.class_names), "text": np.asarray(text)}
    pack["logit_scale"] = np.exp(np.asarray(frozen.theta["logit_scale"], np.float64))
    for split, records in zip(packs.SPLITS, (data.train, data.val, data.test), strict=True):
        pack[f"{split}_x"] = np.asarray(frozen.images(records, "features"), np.float32)
        pack[f"{split}_y"] = labels_of(records)
        pack[f"{split}_paths"] = np.array([record.id for record in records], np.str_)
    return pack


COMMAND = command.Command("pini encode", __doc__, define_flags, main, required=("output",), argument="INPUT")

if __name__ == "__main__":
    command.run(COMMAND)
