"""Trains one config over shots and seeds.

    pini sweep --config=digits --workdir=runs/sweep

Prints mean and spread of the test accuracy. Short for
--config.population='{"shots": (1, 2, 4, 8, 16), "seed": (1, 2, 3)}' of `pini train`: every member is a run in a
folder of its own, and a sweep that was cut off goes on where it was.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

from collections.abc import Sequence

from absl import flags

from pini_jax import main as training
from pini_jax.core import command


def define_flags(values: flags.FlagValues) -> None:
    """Those of training, and the values that a sweep takes."""
    training.define_flags(values)
    define_axes(values)


def define_axes(values: flags.FlagValues) -> None:
    """Shots and seeds."""
    for name, default, text in (("shots", "1,2,4,8,16", "Images per class."), ("seeds", "1,2,3", "Seeds.")):
        flags.DEFINE_list(name, default, text, flag_values=values)
        flags.register_validator(name, _are_numbers, "must be whole numbers", flag_values=values)


def _are_numbers(words: Sequence[str]) -> bool:
    return bool(words) and all(word.isdecimal() for word in words)


def axes(values: flags.FlagValues) -> dict[str, tuple[int, ...]]:
    """The population that the flags name."""
    return {"shots": tuple(map(int, values.shots)), "seed": tuple(map(int, values.seeds))}


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Makes the population; one that is a list has its own shots and seeds."""
    population = values.config.get("population") or {}
    values.config.population = axes(values) | population if isinstance(population, dict) else population
    training.main(values)


COMMAND = command.Command("pini sweep", __doc__, define_flags, main, required=("config", "workdir"))

if __name__ == "__main__":
    command.run(COMMAND)
