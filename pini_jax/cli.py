"""The command `pini`: a table of commands, each of which can also be run as a module."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import pini_jax
from pini_jax.core import stop
from pini_jax.core.errors import did_you_mean

# Their modules: each ends in a COMMAND, and begins with the line of the list that `pini --help` prints.
COMMANDS = {
    "train": "pini_jax.main",
    "predict": "pini_jax.predict",
    "serve": "pini_jax.serve",
    "evaluate": "pini_jax.evaluation",
    "encode": "pini_jax.encode",
    "export": "pini_jax.export",
    "push": "pini_jax.push",
    "report": "pini_jax.report.__main__",
    "sweep": "pini_jax.launch.sweep",
    "sweep plan": "pini_jax.launch.sweep_plan",
    "sweep run": "pini_jax.launch.sweep_run",
    "sweep status": "pini_jax.launch.sweep_status",
    "compare": "pini_jax.launch.compare",
    "check": "pini_jax.data.__main__",
    "reproduce": "pini_jax.reproduce",
}
# Commands that save what they have when they are stopped.
STOPPABLE = ("train", "predict", "evaluate", "encode", "sweep", "sweep run", "compare", "reproduce")


def main() -> None:
    """Runs `pini NAME ...` as `python -m MODULE ...`."""
    name, *arguments = sys.argv[1:] or [""]
    if arguments and f"{name} {arguments[0]}" in COMMANDS:
        name = f"{name} {arguments.pop(0)}"
    if name in STOPPABLE:
        stop.listen()  # before what is slow to import
    if name in COMMANDS:
        sys.argv = [f"pini {name}", *arguments]
        if not sys.flags.safe_path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does, for what a config imports
        from pini_jax.core import command  # JAX: help does not wait for it

        command.run(importlib.import_module(COMMANDS[name]).COMMAND)
    elif name == "--version":
        print(pini_jax.__version__)
    elif name in ("--help", "-h", "help"):
        print(list_of_commands())
    else:
        what = f"there is no command {name!r}" if name else "name a command"
        print(f"error: {what}{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def list_of_commands() -> str:
    """A line for every command."""
    lines = [f"  {name:14}{first_line(module)}" for name, module in COMMANDS.items()]
    return "\n".join([pini_jax.__doc__ or "", "", *lines, "", "pini NAME --help says more about one of them."])


def first_line(module: str) -> str:
    """The first line of a module's docstring, without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return text.partition("\n")[0]


if __name__ == "__main__":
    main()
