"""A task: images of some classes, and what the classes' texts become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.data.datasets.records import Dataset
from pini_jax.methods.method import Text
from pini_jax.task.frozen import Frozen


class Task(NamedTuple):
    """A classification task.

    Attributes:
        data: its test images are what is classified.
        text: what the method reads.
        zero_shot: the same for zero-shot CLIP.
    """

    data: Dataset
    text: Text
    zero_shot: Text


def make_task(config: Config, frozen: Frozen, data: Dataset, name: str) -> Task:
    """The task of a dataset that a config trains on or is also tested on.

    Args:
        name: of the dataset, as a config has it: zero-shot CLIP gets this dataset's template.
    """
    return Task(data, *texts(config, frozen, data.class_names, name))


def texts(config: Config, frozen: Frozen, class_names: Sequence[str], name: str) -> tuple[Text, Text]:
    """What the method reads of the classes, and the same for zero-shot CLIP."""
    text = method_text(config, frozen, class_names, name)
    plain = config.zero_shot_template, name
    if text.prompts is not None or plain == (config.template, config.dataset):
        return text, Text(text.features)
    return text, Text(frozen.text_features(*plain, class_names))


def method_text(config: Config, frozen: Frozen, class_names: Sequence[str], name: str) -> Text:
    """What the method reads of the classes.

    It keeps the template that it was trained with, since its noise belongs to those tokens. Texts that it does not
    encode itself are encoded once and for all; if it does encode them, the features are zero-shot CLIP's.
    """
    if configs.make_method(config).traits.encodes_prompts:
        features = frozen.text_features(config.zero_shot_template, name, class_names)
        return Text(features, frozen.prompts(config.template, config.dataset, class_names))
    return Text(frozen.text_features(config.template, config.dataset, class_names))
