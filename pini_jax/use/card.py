"""The card of a pushed run: what it is, what it was trained on, what was measured, and how to use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pini_jax
from pini_jax.clip.checkpoints import hub
from pini_jax.config import Config
from pini_jax.core import hub_client
from pini_jax.core.hub_client import HubName
from pini_jax.core.wording import listed, plain
from pini_jax.runs.injector import Exported

ROWS = {"zero_shot": "zero-shot CLIP", "mean": "mean noise", "sample": "one sample", "marginal": "many samples"}
COLUMNS = ("accuracy", "macro_f1", "nll", "ece")
CARD = """\
---
{front}
---

# {name}

It tells {count} classes of images apart: {classes}. The method is `{method}` of pini_jax, over a frozen CLIP,
{clip}, whose weights are not in this repository.

## Use

```sh
pip install 'pini_jax[hub]'
pini predict --workdir=hub:{name}{elsewhere} photo.jpg
```

## Training

| | |
|---|---|
{training}

{command}

## Measured

{measured}

## Licence

None is stated: it is the owner's to choose. The base model and the images have their own.
"""


def make_card(name: HubName, exported: Exported, result: Mapping[str, Any], command: Sequence[str]) -> str:
    """The text of README.md, in Markdown.

    Args:
        result: what result.json holds; empty where there is none.
        command: the words that trained it; none where they are not known.
    """
    config, classes = exported.config, exported.class_names
    return CARD.format(
        front=_front(_base_model(config)),
        name=name.id,
        count=len(classes),
        classes=_cell(listed(classes)),
        method=config.method,
        clip=_clip(config),
        elsewhere="" if _is_public(config) else " --clip=CLIP",
        training="\n".join(f"| {key} | {_cell(str(value))} |" for key, value in _training(config, result).items()),
        command=_command(command),
        measured=_measured(result),
    )


def _base_model(config: Config) -> HubName | None:
    return None if Path(config.clip).expanduser().exists() else hub_client.parse_id(config.clip)


def _is_public(config: Config) -> bool:
    """Whether others find the CLIP by its name."""
    return config.clip in ("", hub.BUNDLED.name) or _base_model(config) is not None


def _front(base: HubName | None) -> str:
    """The card's metadata, as YAML."""
    known = {"library_name": "pini_jax", "pipeline_tag": "image-classification", "tags": ["clip", "few-shot"]}
    known |= {"base_model": base.id} if base else {}
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in known.items())


def _clip(config: Config) -> str:
    """How the CLIP is called; of a path on the owner's disk its last part."""
    if base := _base_model(config):
        return f"[{base.id}](https://huggingface.co/{base.id}) at `{base.revision or 'main'}`"
    return f"`{plain(PurePath(config.clip).name)}`" if config.clip else "which made the features"


def _training(config: Config, result: Mapping[str, Any]) -> dict[str, object]:
    kind, colon, path = config.dataset.rpartition(":")
    images = {"training images": result["num_train"], "test images": result["num_test"]} if result else {}
    return {
        "data": f"{kind}{colon}{PurePath(path).name}",
        "shots": config.shots,
        "seed": config.seed,
        "prompt": config.template,
        **images,
        "pini_jax": pini_jax.__version__,
    }


def _command(words: Sequence[str]) -> str:
    if not words:
        return "It was trained from Python."
    called = ["pini", *words[2:]] if PurePath(words[1]).name == "pini" else words
    return f"```sh\n{plain(shlex.join(called))}\n```"


def _measured(result: Mapping[str, Any]) -> str:
    if not result:
        return "Nothing was measured."
    rows = {"zero_shot": result.get("zero_shot")} | result["test"]
    head = f"| test images | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}\n"
    lines = [
        f"| {ROWS.get(mode, mode)} | {' | '.join(f'{row[column]:.4f}' for column in COLUMNS)} |"
        for mode, row in rows.items()
        if row
    ]
    return head + "\n".join(lines)


def _cell(text: str) -> str:
    """Text that stays within its cell."""
    return plain(text).replace("|", "\\|")
