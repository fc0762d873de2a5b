"""Which outcomes are paired, and what follows from them."""

import numpy as np
import pytest
import sweeps

from pini_jax.core.errors import InputError
from pini_jax.report import collect, outcomes


@pytest.fixture
def entries(tmp_path):
    sweeps.write_sweep(tmp_path, sweeps.NAMES[:3], shots=(1, 4), seeds=(1, 2), images=50)
    return collect.read_runs([tmp_path])


def test_outcomes_are_those_of_the_result(entries):
    for entry in entries:
        found = outcomes.read_outcome(entry)
        assert found.correct.mean() == pytest.approx(entry.result["test"]["mean"]["accuracy"])
        assert found.plain.mean() == pytest.approx(entry.result["zero_shot"]["accuracy"])
        assert len(found.images) == 50


def test_all_pairs_and_plain_clip(entries):
    found = outcomes.compare(entries)
    names = list(sweeps.NAMES[:3])
    assert {(x.first, x.second) for x in found} == {
        *((name, outcomes.PLAIN) for name in names),
        *((a, b) for i, a in enumerate(names) for b in names[i + 1 :]),
    }
    assert all((x.seeds, x.images, x.shots) == (2, 50, (1, 4)) for x in found)
    assert all(x.adjusted >= x.difference.p for x in found)
    first, second = (collect.by_label(entries)[name] for name in names[:2])
    accuracy = [np.mean([x.result["test"]["mean"]["accuracy"] for x in group]) for group in (first, second)]
    (between,) = [x for x in found if (x.first, x.second) == tuple(names[:2])]
    assert between.difference.mean == pytest.approx(accuracy[0] - accuracy[1])


def test_without_predictions_seeds_alone_are_paired(entries):
    bare = [x._replace(result={k: v for k, v in x.result.items() if k != "predictions_sha256"}) for x in entries]
    with_images, without = outcomes.compare(entries), outcomes.compare(bare)
    assert all(x.images == 1 and x.seeds == 2 for x in without)
    for a, b in zip(with_images, without, strict=True):
        assert a.difference.mean == pytest.approx(b.difference.mean)


def test_only_shots_that_both_have_are_compared(entries):
    lacking = [x for x in entries if not (x.label == sweeps.NAMES[0] and x.result["shots"] == 1)]
    shots = {(x.first, x.second): x.shots for x in outcomes.compare(lacking)}
    assert shots[sweeps.NAMES[0], sweeps.NAMES[1]] == (4,)
    assert shots[sweeps.NAMES[1], sweeps.NAMES[2]] == (1, 4)


def test_a_damaged_file_is_named(entries):
    (entries[0].folder / "predictions.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match="does not match its hash"):
        outcomes.compare(entries)
