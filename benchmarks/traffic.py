"""Bytes that a program of XLA reads from memory and writes to it, counted from shapes.

What is fused reads its parameters and writes its result, and nothing in between. What is sliced is read as far as
the slice goes, and an update in place writes what is new.
"""

from __future__ import annotations

from benchmarks.hlo import Computation, Instruction, Program

FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "call", "conditional", "async-start", "async-update", "async-done"),  # what they call is counted
)
SCRATCH = ("s8", "u8")  # of a call's further results: room to work in, of which nobody knows how much is used
SLICES = ("slice", "dynamic-slice", "gather")
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # which operand is written into the first


def num_bytes(instruction: Instruction, computation: Computation, program: Program) -> float:
    """Read and written by an instruction that is a program of its own; 0 for what moves nothing itself."""
    if instruction.kind in FREE:
        return 0.0
    if instruction.kind != "fusion":
        sizes = [computation[name].num_bytes for name in instruction.operands]
        taken = sum(_taken(instruction, place, size) for place, size in enumerate(sizes))
        return taken + _written(instruction, computation)
    body = program[instruction.called[0]]
    read = sum(_read(x, body) for x in body.values() if x.kind == "parameter")
    return read + sum(_written(x, body) for x in body.values() if x.is_root)


def _read(array: Instruction, body: Computation) -> float:
    """Of what is passed to a fused computation, as much as its users take, and no more than there is."""
    users = [(x, place) for x in body.values() for place, name in enumerate(x.operands) if name == array.name]
    taken = [
        _read(user, body) if user.kind == "bitcast" else _taken(user, place, array.num_bytes)
        for user, place in users
    ]
    return min(array.num_bytes, sum(taken))


def _taken(user: Instruction, place: int, size: float) -> float:
    """Of an operand."""
    if place == 0 and user.kind in SLICES:
        return user.num_bytes
    return 0.0 if place == 0 and user.kind in UPDATES else size


def _written(result: Instruction, body: Computation) -> float:
    """Of a result."""
    if result.kind == "tuple":
        return sum(_written(body[name], body) for name in result.operands)
    if result.kind == "bitcast":
        return _written(body[result.operands[0]], body)
    if result.kind == "custom-call":
        first, *others = result.results
        return first.num_bytes + sum(array.num_bytes for array in others if array.dtype not in SCRATCH)
    place = UPDATES.get(result.kind)
    return result.num_bytes if place is None else body[result.operands[place]].num_bytes
