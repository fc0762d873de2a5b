"""Few-shot adaptation of a frozen CLIP by learned noise."""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.2.0.dev0"

# Where it is installed, `pini_jax.configs` and `pini_jax.launch` are within the package; in a checkout, beside it.
if not Path(__file__).with_name("configs").exists():
    __path__.append(str(Path(__file__).parent.parent))

# The face: names, and the modules that they come from; imported when they are asked for.
_FACE = {
    "Config": "config",
    "resolve": "config",
    "InputError": "core.errors",
    "Generator": "noise.generators",
    "Site": "noise.sites",
    "Method": "methods.method",
    "Traits": "methods.method",
    "train_and_evaluate": "runs.experiment",
    "train_population": "runs.population",
    "BatchClassifier": "use.batches",
    "Classifier": "use.estimator",
    "TrainedClassifier": "use.classifier",
    "load_classifier": "use.classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'pini_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pini_jax.{_FACE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_FACE]
