"""Runs of different length in lanes."""

import random

import pytest

from pini_jax.train.schedule import Turn, assign, cut, num_busy_lanes, timetable

SPANS = {
    "none": [],
    "finished": [range(5, 5), range(7, 7)],
    "one": [range(3, 9)],
    "equal": [range(4)] * 5,
    "shots": [range(length) for length in (10, 10, 10, 20, 20, 20, 50, 50, 50)],
    "resumed": [range(7, 30), range(30, 30), range(0, 30), range(29, 30)],
}


def table(spans, lanes):
    """The ticks of runs that have these steps still to take."""
    return list(timetable([span.stop for span in spans], [span.start for span in spans], lanes))


@pytest.mark.parametrize("kind", SPANS)
def test_every_step_is_taken_once_and_in_order(kind):
    spans = SPANS[kind]
    for lanes in range(1, 7):
        ticks = table(spans, lanes)
        assert all(len(tick) == lanes for tick in ticks)
        for i, span in enumerate(spans):
            where = [(lane, turn) for tick in ticks for lane, turn in enumerate(tick) if turn and turn.run == i]
            assert [turn.step for _, turn in where] == list(span)
            assert [turn.opens for _, turn in where] == [True] * bool(span) + [False] * (len(span) - 1)
            assert len({lane for lane, _ in where}) <= 1
            assert len({turn.run for tick in ticks for turn in tick if turn}) == sum(map(bool, spans))


def test_lanes_keep_each_other_busy():
    lengths = {kind: [span.stop for span in spans] for kind, spans in SPANS.items()}
    assert {kind: num_busy_lanes(of_kind) for kind, of_kind in lengths.items()} == {
        "none": 0,
        "finished": 2,
        "one": 1,
        "equal": 5,
        "shots": 5,
        "resumed": 4,
    }
    # 240 steps in five lanes, of which the longest run takes 50: within the bound of 4/3 of the best
    assert len(table(SPANS["shots"], 5)) == 50


def test_a_run_keeps_its_lane_whatever_was_done_before():
    spans, lanes = SPANS["shots"], 3
    lane_of = {
        run: lane for lane, queue in enumerate(assign([span.stop for span in spans], lanes)) for run in queue
    }
    chance = random.Random(1)
    for _ in range(20):
        resumed = [range(chance.randint(0, span.stop), span.stop) for span in spans]
        for tick in table(resumed, lanes):
            assert all(turn is None or lane_of[turn.run] == lane for lane, turn in enumerate(tick))


def test_no_tick_is_without_a_run():
    chance = random.Random(0)
    for _ in range(20):
        spans = [range(chance.randint(0, 9)) for _ in range(chance.randint(1, 8))]
        ticks = table(spans, max(1, num_busy_lanes([span.stop for span in spans])))
        assert all(any(tick) for tick in ticks)
        assert all(isinstance(turn, Turn) for turn in ticks[0]) if ticks else True


@pytest.mark.parametrize("kind", SPANS)
def test_calls_are_the_timetable_in_order(kind):
    """Each begins where runs come in, and ends where a checkpoint is due, or where it is as long as it may be."""
    spans, chance = SPANS[kind], random.Random(2)
    lengths = {run: span.stop for run, span in enumerate(spans)}

    def ends(turn):
        return turn.step % 4 == 3 or turn.step + 1 == lengths[turn.run]

    for lanes in range(1, 7):
        asked = []

        def length(asked=asked):
            asked.append(chance.randint(1, 3))
            return asked[-1]

        calls = list(cut(table(spans, lanes), ends, length))
        assert [tick for call in calls for tick in call] == table(spans, lanes)
        for call, most in zip(calls, asked, strict=False):
            assert not any(turn.opens for tick in call[1:] for turn in tick if turn)
            assert not any(ends(turn) for tick in call[:-1] for turn in tick if turn)
            assert len(call) == most or any(ends(turn) for turn in call[-1] if turn)
