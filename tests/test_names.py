"""The words of the package: a name is one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import pini_jax

COMMANDS = {"main", "define_flags"}  # what every command has


def test_no_public_name_twice():
    package = Path(pini_jax.__file__).parent
    places = defaultdict(set)
    for file in package.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                places[node.name].add(str(file.relative_to(package)))
    twice = {name: files for name, files in places.items() if len(files) > 1 and not name.startswith("_")}
    assert twice.keys() - COMMANDS == set(), twice
