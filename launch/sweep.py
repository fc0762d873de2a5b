"""Runs one config over shots and seeds, and prints mean and spread of the test accuracy.

    python -m launch.sweep --config=configs/digits.py --workdir=runs/sweep

Short for --config.population='{"shots": (1, 2, 4, 8, 16), "seed": (1, 2, 3)}' of `pini_jax.main`: every member
is a run in a folder of its own, and a sweep that was cut off goes on where it was.
"""

from __future__ import annotations

from absl import app, flags

from pini_jax import main
from pini_jax.core import runtime

SHOTS = flags.DEFINE_list("shots", ["1", "2", "4", "8", "16"], "Images per class.")
SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds.")


def sweep(_) -> None:
    """Makes the population."""
    population = {"shots": tuple(map(int, SHOTS.value)), "seed": tuple(map(int, SEEDS.value))}
    main.CONFIG.value.population = population | (main.CONFIG.value.get("population") or {})
    main.main(_)


def check_flags() -> None:
    """What a command with shots and seeds must be told."""
    flags.mark_flag_as_required("config")
    for name in ("shots", "seeds"):
        flags.register_validator(name, lambda x: x and all(n.isdigit() for n in x), "must be whole numbers")
    flags.register_validator("workdir", bool, "must name a folder")


if __name__ == "__main__":
    check_flags()
    app.run(sweep, flags_parser=runtime.parse_flags)
