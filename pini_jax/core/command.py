"""A command of the command line: its flags, its help, and what is typed wrong as one line."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import absl.logging
from absl import flags

from pini_jax.core import runtime
from pini_jax.core.errors import UsageError


class Command(NamedTuple):
    """What `pini NAME` and `python -m MODULE` both run.

    Attributes:
        name: how it is called.
        text: what it does, in one line; examples; what else a person should know.
        define_flags: defines its flags in what it is given.
        main: is given the flags' values and the other arguments.
        required: flags that must have a value.
        argument: what every other argument is, such as `IMAGE`; "" where there are none.
    """

    name: str
    text: str
    define_flags: Callable[[flags.FlagValues], None]
    main: Callable[[flags.FlagValues, Sequence[str]], None]
    required: Sequence[str] = ()
    argument: str = ""


def run(command: Command) -> None:
    """Runs a command with sys.argv; the exit status is 0, 1 for an error, or 2 for a usage error."""
    values = flags.FlagValues()
    command.define_flags(values)
    if {"--help", "-h"} & set(itertools.takewhile("--".__ne__, sys.argv)):
        print(help_text(command, values))
        return
    absl.logging.use_absl_handler()  # so that `prepare` quietens whatever libraries log
    runtime.prepare()
    with runtime.errors_as_lines():
        command.main(values, parse(command, values))


def parse(command: Command, values: flags.FlagValues) -> list[str]:
    """Gives the flags their values from sys.argv, and returns the other arguments.

    Raises:
        UsageError: something in it is wrong or missing.
    """
    try:
        _, *arguments = values(sys.argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    except (AttributeError, LookupError) as error:
        raise UsageError(f"--config has no such setting: {_plain(error)}") from None
    see = f"see {command.name} --help"
    if missing := [f"--{name}" for name in command.required if not values[name].value]:
        raise UsageError(f"{' and '.join(missing)} must be given; {see}")
    if command.argument and not arguments:
        raise UsageError(f"name one {command.argument} or more; {see}")
    if arguments and not command.argument:
        raise UsageError(f"{arguments[0]!r} is no flag, and nothing else is taken; {see}")
    return arguments


def _plain(error: Exception) -> str:
    """What a ConfigDict says of an unknown key, which is two lines, quoted twice."""
    return ": ".join(str(error).replace("'", "").replace("\\n", "\n").replace("\\", "").splitlines())


def help_text(command: Command, values: flags.FlagValues) -> str:
    """The help of a command: usage, description, and a table of its flags as wide as the terminal."""
    width = min(100, shutil.get_terminal_size().columns)
    usage = f"usage: {command.name} [--FLAG=VALUE ...]{command.argument and f' {command.argument} ...'}"
    paragraphs = [x if x.startswith(" ") else textwrap.fill(x, width) for x in command.text.strip().split("\n\n")]
    rows = {_title(values[name]): _meaning(values[name]) for name in values}
    indent = max(map(len, rows)) + 4
    table = [
        textwrap.fill(f"  {title:{indent - 4}}  {meaning}", width, subsequent_indent=" " * indent)
        for title, meaning in rows.items()
    ]
    return "\n\n".join([usage, *paragraphs, "\n".join(table)])


def _title(flag: flags.Flag[Any]) -> str:
    return f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"


def _meaning(flag: flags.Flag[Any]) -> str:
    default = f" (default: {flag.default_as_str})" if flag.default and not flag.boolean else ""
    return f"{flag.help}{default}"
