"""Optimised programs of XLA, read from their text: instructions, and how often each is run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
ARRAY = re.compile(r"(\w+?)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
TARGET = re.compile(r'custom_call_target="([^"]*)"')
BITS = re.compile(r"\d+")


class Array(NamedTuple):
    """Its dtype and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> float:
        """A truth value has a whole one."""
        bits = BITS.search(self.dtype)
        return math.prod(self.shape) * (int(bits[0]) / 8 if bits else 1)


class Instruction(NamedTuple):
    """A line of a program.

    Attributes:
        results: one array, or several.
        operands: names of other instructions of the computation.
        rest: what follows the opening bracket of the operands.
    """

    name: str
    results: tuple[Array, ...]
    kind: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.results[0].shape

    @property
    def num_bytes(self) -> float:
        """Of all results."""
        return sum(array.num_bytes for array in self.results)

    @property
    def called(self) -> list[str]:
        """Names of computations that it runs: a loop's body, what is fused, what a reduction applies."""
        return CALLED.findall(self.rest)

    @property
    def turns(self) -> int | None:
        """How often what it calls is run; None for a loop that does not say it."""
        found = TURNS.search(self.rest)
        return int(found[1]) if found else None if self.kind == "while" else 1

    @property
    def target(self) -> str:
        """What a custom call runs; of all else the kind."""
        found = TARGET.search(self.rest) if self.kind == "custom-call" else None
        return found[1] if found else self.kind


Computation = Mapping[str, Instruction]
Program = Mapping[str, Computation]


def parse(text: str) -> tuple[str, Program]:
    """The entry's name, and all computations by theirs."""
    entry, name, computations = "", "", dict[str, dict[str, Instruction]]()
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.-]+) ", line)):
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = {}
        elif (found := INSTRUCTION.match(line)) and (arrays := _arrays(found[3])):
            root, own, _, kind, rest = found.groups()
            computations[name][own] = Instruction(own, arrays, kind, _operands(rest), rest, bool(root))
    return entry, computations


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(map(int, filter(None, shape.split(","))))) for dtype, shape in ARRAY.findall(text)
    )


def _operands(rest: str) -> tuple[str, ...]:
    """Names up to the bracket that closes them; layouts have brackets too."""
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += (rest[end] == "(") - (rest[end] == ")")
        end += 1
    return tuple(re.findall(r"%([\w.-]+)", rest[:end]))


def walk(program: Program, name: str, times: float = 1) -> Iterator[tuple[str, Instruction, float]]:
    """Every instruction with its computation, and how often it is run; loops that do not say it turn once."""
    for instruction in program.get(name, {}).values():
        yield name, instruction, times
        for called in instruction.called:
            yield from walk(program, called, times * (instruction.turns or 1))
