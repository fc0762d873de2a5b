"""Pushes a finished run to the Hugging Face hub, for others to predict with.

    hf auth login
    pini push --workdir=runs/photos owner/name

Pushes injector.safetensors, classes.safetensors where there is one, and README.md, a card that says what the run
is: the data, shots, metrics, command and base model. The licence is yours to state. A README.md that is there
already is left as it is. Then `pini predict --workdir=hub:owner/name photo.jpg` predicts by it, anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, hub_client
from pini_jax.core.errors import UsageError
from pini_jax.core.hub_client import HubName
from pini_jax.core.paths import RESULT, check_address
from pini_jax.runs import folder, injector
from pini_jax.use import card

FILES = (injector.FILE, injector.CLASSES)


def define_flags(values: flags.FlagValues) -> None:
    """What is pushed, and who sees it."""
    flags.DEFINE_string("workdir", None, "A run's folder, or its injector.safetensors.", flag_values=values)
    flags.DEFINE_bool("private", False, "Whether a repository that is made is private.", flag_values=values)


def main(values: flags.FlagValues, names: Sequence[str]) -> None:
    """Pushes, and says where to."""
    check_address("--workdir", values.workdir)
    name = hub_client.parse_id(names[0])
    if len(names) > 1 or name is None or name.revision:
        raise UsageError(f"{' '.join(names)}: name one repository of the hub, as owner/name")
    files, keeps_card = uploaded_files(Path(values.workdir), name), hub_client.has_file(name, "README.md")
    if keeps_card:
        del files["README.md"]
    print(hub_client.push(name, files, "A run of pini_jax", values.private))
    if keeps_card:
        print("its README.md is left as it was")


def uploaded_files(run: Path, name: HubName) -> dict[str, bytes]:
    """What a repository gets.

    Raises:
        InputError: there is no finished run, or it is damaged.
    """
    exported = injector.load_run(run)
    if not run.is_dir():
        return {injector.FILE: run.read_bytes(), "README.md": card.make_card(name, exported, {}, ()).encode()}
    result = folder.read_sealed(run / RESULT)
    words = folder.read_sealed(run / folder.PROVENANCE)["command"]
    files = {file: (run / file).read_bytes() for file in FILES if (run / file).exists()}
    return files | {"README.md": card.make_card(name, exported, result, words).encode()}


COMMAND = command.Command("pini push", __doc__, define_flags, main, required=("workdir",), argument="NAME")

if __name__ == "__main__":
    command.run(COMMAND)
