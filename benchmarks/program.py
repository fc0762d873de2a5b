"""What the compiled text step computes and moves, read from its program: python -m benchmarks.program.

Products are counted in the optimised program (`benchmarks.products`), those of a loop as often as it turns, and
set against what the mathematics needs (`benchmarks.flops`); where layers are computed again, their way there is
counted twice. So are bytes read and written (`benchmarks.traffic`), against those of the products alone. `not
known` are calls whose operations are in no table, which count nothing, loops whose turns are not known, which are
counted once, and conditions, whose branches are not counted. The rest are transposes, copies and changes of dtype
that are programs of their own, or what a fused one ends in: megabytes written in a step, the greatest first.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax

from benchmarks import hlo, products, traffic
from benchmarks.accelerator.text import TextStep, Variant, text_step
from benchmarks.hlo import Instruction, Program

MOVES = ("transpose", "copy", "convert")
CALLERS = ("while", "call", "conditional", "async-start")  # what they run are programs of their own
SHOWN = 8


class Read(NamedTuple):
    """What is read from a program.

    Attributes:
        flops: of products of matrices.
        num_bytes: read and written.
        moves: bytes by what moves them: kind, dtype and shape.
        unknown: how often what is not known is met, by the target of a call or the kind.
    """

    flops: float
    num_bytes: float
    moves: Counter[str]
    unknown: Counter[str]


def read(text: str) -> Read:
    """Of an optimised program, as `jax.stages.Compiled.as_text` has it."""
    entry, program = hlo.parse(text)
    flops, num_bytes, moves, unknown = 0.0, 0.0, Counter[str](), Counter[str]()
    instructions = [x for computation in program.values() for x in computation.values()]
    within = {called for x in instructions if x.kind not in CALLERS for called in x.called}
    for name, instruction, times in hlo.walk(program, entry):
        flops += times * products.flops(instruction, program[name])
        unknown[instruction.target] += _is_unknown(instruction)
        if name not in within:
            num_bytes += times * traffic.num_bytes(instruction, program[name], program)
            if kind := _moves(instruction, program):
                moves[_told(kind, instruction)] += times * instruction.num_bytes
    return Read(flops, num_bytes, moves, +unknown)


def _is_unknown(instruction: Instruction) -> bool:
    """Whether operations may be missing from the count: of a call, a loop, or either branch of a condition."""
    if instruction.kind in ("custom-call", "custom-call-start"):
        return instruction.target not in products.COUNTS
    return instruction.turns is None or instruction.kind == "conditional"


def _moves(instruction: Instruction, program: Program) -> str:
    """The kind of move that an instruction is, or that it ends in where it is fused."""
    if instruction.kind == "fusion":
        (called,) = instruction.called
        return next((x.kind for x in program[called].values() if x.is_root and x.kind in MOVES), "")
    return instruction.kind if instruction.kind in MOVES else ""


def _told(kind: str, instruction: Instruction) -> str:
    return f"{kind} {instruction.results[0].dtype}[{','.join(map(str, instruction.shape))}]"


def measure(tower: str, classes: int, remat: bool) -> tuple[TextStep, Read]:
    """A step, and what is read from its program."""
    step = text_step(Variant(tower, classes, remat))
    return step, read(jax.jit(step.call).lower(*step.arguments).compile().as_text())


def lines(step: TextStep, found: Read) -> list[str]:
    """What is told of a program."""
    told = [
        f"{step.flops / 1e9:,.1f} GFLOP needed, {found.flops / step.flops:.2f} of them computed",
        f"{step.num_bytes / 1e6:,.1f} MB needed, {found.num_bytes / step.num_bytes:.2f} of them read and written",
    ]
    told += [f"not known: {times} x {name}" for name, times in found.unknown.most_common(SHOWN)]
    return told + [f"{size / 1e6:,.1f} MB  {move}" for move, size in found.moves.most_common(SHOWN)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what is told of each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", default="B/16", choices=("tiny", "B/16", "L/14"))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    chosen = parser.parse_args(arguments)
    for classes in chosen.classes:
        for remat in (False, True):
            print(f"{classes} classes, layers {'computed again' if remat else 'kept'}:")
            print(*(f"  {line}" for line in lines(*measure(chosen.tower, classes, remat))), sep="\n")


if __name__ == "__main__":
    main()
