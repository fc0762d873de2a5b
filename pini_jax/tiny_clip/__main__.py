"""Makes the bundled CLIP: python -m pini_jax.tiny_clip --config=configs/tiny_clip.py --workdir=runs/tiny_clip."""

from __future__ import annotations

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from pini_jax.core import runtime
from pini_jax.tiny_clip.pretrain import Recipe, pretrain


def main(_) -> None:
    """Flags -> recipe -> folder."""
    runtime.prepare()
    with runtime.errors_as_lines():
        print(pretrain(Recipe.from_config(flags.FLAGS.config), Path(flags.FLAGS.workdir)))


if __name__ == "__main__":
    # Not above: `main` has flags of the same names.
    config_flags.DEFINE_config_file("config", None, "The recipe: configs/tiny_clip.py.")
    flags.DEFINE_string("workdir", "runs/tiny_clip", "Folder in which tiny_clip is made.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=runtime.parse_flags)
