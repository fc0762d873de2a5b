"""Few-shot adaptation of a frozen CLIP by learned noise."""

from pathlib import Path

__version__ = "0.2.0.dev0"

# Where it is installed, `pini_jax.configs` and `pini_jax.launch` are within the package; in a checkout, beside it.
if not Path(__file__).with_name("configs").exists():
    __path__.append(str(Path(__file__).parent.parent))
