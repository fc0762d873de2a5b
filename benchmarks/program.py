"""What the compiled text step computes and moves, read from its program: python -m benchmarks.program.

Products are counted in the optimised program, those of a loop as often as it turns, and set against what the
mathematics needs (`benchmarks.flops`); where layers are computed again, their way there counts twice. `moves` are
transposes, copies and changes of dtype that are programs of their own, or what a fused one ends in: megabytes
written in a step, the greatest first.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from benchmarks.accelerator.text import text_step

INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
ARRAY = re.compile(r"(\w+?)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
BITS = re.compile(r"\d+")
MOVES = ("transpose", "copy", "convert")
SHOWN = 8


class Instruction(NamedTuple):
    """A line of a program.

    Attributes:
        shape: of its result; of the first of several.
        rest: operands and attributes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    rest: str
    is_root: bool

    @property
    def num_bytes(self) -> float:
        """Of its result."""
        bits = BITS.search(self.dtype)
        return math.prod(self.shape) * (int(bits[0]) / 8 if bits else 1)


Program = Mapping[str, Sequence[Instruction]]  # computations by name


class Read(NamedTuple):
    """What is read from a program.

    Attributes:
        flops: of products of matrices.
        moves: bytes by what moves them: kind, dtype and shape.
        unknown: loops whose turns are not known; they count once.
    """

    flops: float
    moves: Counter[str]
    unknown: int


def parse(text: str) -> tuple[str, Program]:
    """The entry's name, and all computations."""
    entry, name, computations = "", "", dict[str, list[Instruction]]()
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.-]+) ", line)):
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
        elif (found := INSTRUCTION.match(line)) and (array := ARRAY.search(found[3])):
            shape = tuple(map(int, filter(None, array[2].split(","))))
            root, own, _, kind, rest = found.groups()
            computations[name].append(Instruction(own, array[1], shape, kind, rest, bool(root)))
    return entry, computations


def read(text: str) -> Read:
    """Of an optimised program, as `jax.stages.Compiled.as_text` has it."""
    entry, program = parse(text)
    total, moves, unknown = 0.0, Counter[str](), 0
    fusions = [x for computation in program.values() for x in computation if x.kind == "fusion"]
    fused = {called for x in fusions for called in CALLED.findall(x.rest)}
    for computation, instruction, times in walk(program, entry):
        if instruction.kind == "dot":
            total += times * product_flops(instruction, program[computation])
        unknown += instruction.kind == "while" and not TURNS.search(instruction.rest)
        if computation not in fused and (kind := _moves(instruction, program)):
            shape = ",".join(map(str, instruction.shape))
            moves[f"{kind} {instruction.dtype}[{shape}]"] += times * instruction.num_bytes
    return Read(total, moves, unknown)


def walk(program: Program, name: str, times: float = 1) -> Iterator[tuple[str, Instruction, float]]:
    """Every instruction with its computation, and how often it is run."""
    for instruction in program.get(name, ()):
        yield name, instruction, times
        turns = TURNS.search(instruction.rest) if instruction.kind == "while" else None
        for called in CALLED.findall(instruction.rest):
            yield from walk(program, called, times * (int(turns[1]) if turns else 1))


def product_flops(product: Instruction, computation: Sequence[Instruction]) -> float:
    """2 x numbers of the result x length of what is summed over."""
    shapes = {instruction.name: instruction.shape for instruction in computation}
    left = shapes[product.rest.partition(",")[0].split()[-1].lstrip("%")]
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.rest)
    summed = [left[int(axis)] for axis in axes[1].split(",")] if axes and axes[1] else []
    return 2.0 * math.prod(product.shape) * math.prod(summed)


def _moves(instruction: Instruction, program: Program) -> str:
    """The kind of move that an instruction is, or that it ends in where it is fused."""
    if instruction.kind == "fusion":
        (called,) = CALLED.findall(instruction.rest)
        return next((x.kind for x in program[called] if x.is_root and x.kind in MOVES), "")
    return instruction.kind if instruction.kind in MOVES else ""


def measure(tower: str, classes: int, remat: bool) -> tuple[float, Read]:
    """Operations that the step needs, and what is read from its program."""
    step = text_step(tower, classes, remat=remat)
    found = read(jax.jit(step.call).lower(*step.arguments).compile().as_text())
    return step.flops, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the moves of each of its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", default="B/16", choices=("tiny", "B/16", "L/14"))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    chosen = parser.parse_args(arguments)
    for classes in chosen.classes:
        for remat in (False, True):
            needed, found = measure(chosen.tower, classes, remat)
            print(f"{classes} classes, layers {'computed again' if remat else 'kept'}:")
            print(f"  {needed / 1e9:,.1f} GFLOP needed, {found.flops / needed:.2f} of them computed")
            for move, size in found.moves.most_common(SHOWN):
                print(f"  {size / 1e6:,.1f} MB  {move}")


if __name__ == "__main__":
    main()
