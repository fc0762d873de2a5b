"""A sweep as a plan: all its runs, and which of them are one unit of work.

Runs of a unit share the frozen half and a compiled step, and train side by side in lanes. Units are cut here once,
and lanes follow from the unit, so that no bit of a result depends on who trains it, or when.

The plan is a file of JSON lines. The first says what all runs share: `settings`, and how many `runs` and `units`
there are. Every other one is a run:

| key        | what                                                                                            |
|------------|-------------------------------------------------------------------------------------------------|
| `name`     | its folder                                                                                      |
| `unit`     | the number of its unit; costly ones come first                                                  |
| `cost`     | of its training: images, every pass and draw counted; those of a class, where nothing says how  |
|            | many classes there are before the data are read                                                 |
| `values`   | by which it differs from the others                                                             |
| `settings` | what these set, where that is something else                                                    |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core.errors import InputError
from pini_jax.core.store import Store
from pini_jax.core.wording import listed
from pini_jax.data.datasets import coop
from pini_jax.methods.optim import num_steps
from pini_jax.runs import population

FILE = "plan.jsonl"
FORMAT = 1
TOGETHER = 16  # runs of a unit: more share more, and fewer leave more to others
CLASSES = {"digits": 10} | {name: layout.classes for name, layout in coop.LAYOUTS.items()}


class Planned(NamedTuple):
    """A run of a plan; the attributes are the keys of its line."""

    name: str
    unit: int
    cost: int
    values: Mapping[str, Any]
    settings: Mapping[str, Any]


class Plan(NamedTuple):
    """A sweep.

    Attributes:
        settings: of all runs, before those of each.
        units: the runs of each, by its number.
    """

    settings: Mapping[str, Any]
    units: Sequence[Sequence[Planned]]

    @property
    def runs(self) -> list[Planned]:
        """All runs, unit by unit."""
        return [run for unit in self.units for run in unit]

    def configs(self, unit: int) -> dict[str, Config]:
        """{name: config} of the runs of a unit."""
        return {
            run.name: configs.resolve(population.changed(self.settings, run.settings)) for run in self.units[unit]
        }


# ------------------------------------------------------------------------------------------------ making


def make_plan(settings: Mapping[str, Any] | ml_collections.ConfigDict, together: int = TOGETHER) -> Plan:
    """The plan of a config's population.

    Args:
        together: how many runs a unit has at most.

    Raises:
        InputError: all problems of the settings at once, or two runs have the same name.
    """
    base, several = population.split(settings)
    variations = population.variations(base, several)
    names = [population.member_name(variation.values) or "run" for variation in variations]
    if len(set(names)) < len(names):
        raise InputError(f"population: several members have the same name: {listed(_repeated(names))}")
    halves = [_halves(variation.settings) for variation in variations]
    _check(numbers for _, numbers in halves)
    common = _resolve(base, (words for words, _ in halves))
    drafts = [_Draft(common[repr(words)], numbers) for words, numbers in halves]
    units = [part for group in _groups(drafts) for part in _cut(group, together)]
    units.sort(key=lambda unit: -sum(drafts[i].cost for i in unit))
    planned = [
        [Planned(names[i], number, drafts[i].cost, *variations[i]) for i in unit]
        for number, unit in enumerate(units)
    ]
    return Plan(base, planned)


class _Draft(NamedTuple):
    """A run by what it shares with many, and its own numbers: a hundred thousand whole configs take minutes."""

    common: Config
    numbers: Mapping[str, Any]

    @property
    def shots(self) -> int:
        return self.numbers.get("shots", self.common.shots)

    @property
    def cost(self) -> int:
        """Images that training sees: passes x shots x classes x draws; of one class where they are unknown."""
        config, images = self.common, self.shots * CLASSES.get(self.common.dataset, 1)
        per_shot = config.steps_per_shot * min(config.batch_size, images)
        return num_steps(config.optim.epochs, images, per_shot, self.shots) * config.num_samples


def _halves(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What configs have to be checked for, and numbers that go with all of them."""
    words = {key: value for key, value in settings.items() if key not in configs.INDEPENDENT}
    return words, {key: value for key, value in settings.items() if key in configs.INDEPENDENT}


def _check(numbers: Iterable[Mapping[str, Any]]) -> None:
    """Raises InputError where a number cannot be, with all problems at once."""
    every = {repr(item): item for own in numbers for item in own.items()}
    if problems := [problem for item in every.values() for problem in configs.problems_of_number(*item)]:
        raise InputError(f"config: {listed(problems, '; ')}")


def _resolve(base: Mapping[str, Any], words: Iterable[Mapping[str, Any]]) -> dict[str, Config]:
    """The configs of different settings, by their texts."""
    every = {repr(own): own for own in words}
    return {text: configs.resolve(population.changed(base, own)) for text, own in every.items()}


def _repeated(names: Iterable[str]) -> list[str]:
    known: set[str] = set()
    return [name for name in names if name in known or known.add(name)]  # type: ignore[func-returns-value]


def _groups(drafts: Sequence[_Draft]) -> list[list[int]]:
    """The numbers of the runs that can share a compiled step, as `population.groups` has it."""
    alike: dict[tuple[int, int], list[int]] = {}
    for i, draft in enumerate(drafts):
        alike.setdefault((id(draft.common), draft.shots), []).append(i)
    first = {
        Path(str(numbers[0])): configs.with_numbers(drafts[numbers[0]].common, {"shots": shots})
        for (_, shots), numbers in alike.items()
    }
    members = {str(numbers[0]): numbers for numbers in alike.values()}
    return [sorted(i for one in group for i in members[one.name]) for group in population.groups(first)]


def _cut(group: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """A group in parts of at most so many runs, all of the same size but for one."""
    parts = -(-len(group) // most)
    for part in range(parts):
        yield group[part * len(group) // parts : (part + 1) * len(group) // parts]


# ------------------------------------------------------------------------------------------------ the file


def lines(plan: Plan) -> Iterator[str]:
    """The plan's file, line by line."""
    runs = [_line(run) for run in plan.runs]
    digest = hashlib.sha256("\n".join(runs).encode()).hexdigest()
    counts = {"runs": len(runs), "units": len(plan.units)}
    yield json.dumps({"format": FORMAT, "sha256": digest} | counts | {"settings": plan.settings})
    yield from runs


def _line(run: Planned) -> str:
    content = run._asdict()
    if run.settings == run.values:
        del content["settings"]
    return json.dumps(content)


def write_plan(plan: Plan, store: Store) -> None:
    """Writes the plan's file, and population.json for reports, where there is none; one that is equal is left.

    Raises:
        InputError: there is another plan.
    """
    text = "\n".join(lines(plan)) + "\n"
    if not store.create(FILE, text.encode()) and (store.read(FILE) or b"").decode() != text:
        raise InputError(f"there is another sweep's {FILE} in the workdir: choose another workdir")
    values = {run.name: run.values for run in plan.runs}
    store.create(population.FILE, (json.dumps(values, indent=1) + "\n").encode())


def read_plan(store: Store) -> Plan:
    """The plan that `write_plan` wrote.

    Raises:
        InputError: there is none, or it is damaged.
    """
    content = store.read(FILE)
    if content is None:
        raise InputError(f"the workdir has no {FILE}: pini sweep plan makes it")
    try:
        first, *rest = content.decode().splitlines()
        head = json.loads(first)
        if head["format"] != FORMAT or head["sha256"] != hashlib.sha256("\n".join(rest).encode()).hexdigest():
            raise ValueError("it does not match its hash, or is of another version")
        runs = [json.loads(line) for line in rest]
        units: list[list[Planned]] = [[] for _ in range(head["units"])]
        for run in runs:
            units[run["unit"]].append(Planned(**({"settings": run["values"]} | run)))
        return Plan(head["settings"], units)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{FILE} is damaged ({error}): restore it; a new one may cut other units") from None
