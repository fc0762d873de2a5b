"""What an experiment refuses before it begins."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from pini_jax.core.errors import InputError
from pini_jax.methods.method import Text
from pini_jax.runs import experiment
from pini_jax.task.task import Task

DATA = SimpleNamespace(class_names=("ant", "bee"))


def text(*features):
    return Text(jnp.array([features], jnp.float32))


GOOD = text((1, 0), (0, 1))


@pytest.mark.parametrize("bad", [(0, 0), (np.nan, 1), (np.inf, 1)])
def test_classes_without_a_direction_are_named(bad):
    """Of the method's texts and of plain CLIP's, in any template of an ensemble."""
    wrong = text((1, 0), bad)
    ensemble = Text(jnp.concatenate([GOOD.features, wrong.features]))
    experiment.check_texts(Task(DATA, GOOD, GOOD))
    for task in (Task(DATA, wrong, GOOD), Task(DATA, GOOD, wrong), Task(DATA, GOOD, ensemble)):
        with pytest.raises(InputError, match="text tower's features are zero or not finite, of: bee$"):
            experiment.check_texts(task)
