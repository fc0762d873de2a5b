"""Makes the bundled CLIP.

python -m pini_jax.tiny_clip --config=tiny_clip --workdir=runs/tiny_clip
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, config_file
from pini_jax.tiny_clip.pretrain import Recipe, pretrain


def define_flags(values: flags.FlagValues) -> None:
    """The recipe, and where the CLIP goes."""
    config_file.define_flag(values)
    text = "Folder in which tiny_clip is made."
    flags.DEFINE_string("workdir", "runs/tiny_clip", text, flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Flags -> recipe -> folder."""
    print(pretrain(Recipe.from_config(values.config), Path(values.workdir)))


COMMAND = command.Command(
    "python -m pini_jax.tiny_clip", __doc__, define_flags, main, required=("config", "workdir")
)

if __name__ == "__main__":
    command.run(COMMAND)
