"""PyTorch's pickles, read as data by an interpreter of the few opcodes that weights need.

Python's unpickler calls what a pickle names, hashes whatever is made a key, and makes room for a memo of any size
that it is told. Here an opcode takes time and memory for its own bytes only: what may be called is handed in, keys
are texts and numbers, and an opcode that is not in the table is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from pini_jax.core.wording import quoted

BYTES = 1 << 24  # of a pickle; that of the largest CLIP has a million
OPCODES = 1 << 19
ARGUMENTS = 16  # of a function
NUMBERS = 1 << 63  # and as far below zero
KEYS = 1 << 31  # of a dictionary, where they are numbers


class Function(NamedTuple):
    """Something that a pickle may call; it must not take longer for longer arguments."""

    call: Callable[..., Any]


class Object:
    """Stands for an instance of any class: holds what the pickle says is its state, and runs nothing."""

    state: dict[str, Any] | None = None


class _Machine:
    """What a pickle works on.

    Attributes:
        stack: values above the last mark.
        below: the stacks below each mark.
        memo: values by number.
    """

    def __init__(self, find: Callable[[str, str], Any], locate: Callable[[Any], Any]):
        self.find, self.locate = find, locate
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def push_int(self, value: int) -> None:
        if abs(value) > NUMBERS:
            raise ValueError("it holds a number of more than 64 bits")
        self.push(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.below.pop()
        return above

    def tuple_of(self, length: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(length)])))

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("it sets items of what is no dictionary")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Others may take exponential time to hash, and long numbers can be chosen to collide.
            if type(key) is not str and not (type(key) is int and 0 <= key < KEYS):
                raise ValueError("it has a key that is neither a text nor a small number")
            if key in target:
                raise ValueError(f"it has the key {quoted(key)} twice")
            target[key] = value

    def find_names(self, *names: Any) -> None:
        if len(names) != 2 or not all(type(name) is str for name in names):
            raise ValueError("it names what is no name")
        self.push(self.find(*names))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Function) or type(arguments) is not tuple or len(arguments) > ARGUMENTS:
            raise ValueError("it calls what is no function")
        self.push(function.call(*arguments))

    def new_object(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if kind is not Object or arguments != ():
            raise ValueError("it makes an object of no known class")
        self.push(Object())

    def build(self) -> None:
        """The state of an object; that of a dictionary is its attributes, which hold no weights."""
        state, target = self.pop(), self.stack[-1]
        if type(target) is Object and target.state is None and type(state) is dict:
            target.state = state
        elif type(target) is not dict:
            raise ValueError("it gives a state to what has none")


_INTERPRET: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _Machine.push_int),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, number: m.memo.update({number: m.stack[-1]})),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, number: m.push(m.memo[number])),
    "GLOBAL": lambda m, names: m.find_names(*names.split(" ")),
    "STACK_GLOBAL": lambda m, _: m.find_names(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.new_object(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.push(m.locate(m.pop())),
}


def read_pickle(pickled: bytes, find: Callable[[str, str], Any], locate: Callable[[Any], Any]) -> Any:
    """The value of a pickle.

    Args:
        find: (module, name) -> what stands for it: a `Function`, the class `Object`, or a value.
        locate: persistent id, of any type -> value.

    Raises:
        Exception: the pickle is damaged, or does what weights do not need; of any type.
    """
    machine = _Machine(find, locate)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name == "STOP":
            return machine.pop()
        if count == OPCODES:
            raise ValueError(f"its pickle has more than {OPCODES:,} opcodes")
        if opcode.name not in _INTERPRET:
            raise ValueError(f"its pickle has the opcode {opcode.name}, which no weights need")
        _INTERPRET[opcode.name](machine, argument)
    raise ValueError("its pickle has no end")
