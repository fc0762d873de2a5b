"""Claims: who holds a unit, who may take it over, and what is over."""

import random

import pytest
from stores import Memory

from pini_jax.core.errors import InputError
from pini_jax.runs import claims
from pini_jax.runs.claims import MOST_LOST, SHARD, Claim, Claims, Standing


@pytest.fixture
def store():
    return Memory()


def worker(store, name="a", units=3, skew=0.0, **options):
    """One whose own clock differs from the store's."""
    return Claims(store, units, name, monotonic=lambda: store.now + skew, **options)


def test_units_are_claimed_once(store):
    one, two = worker(store, "a"), worker(store, "b")
    taken = [one.take(), two.take(), one.take()]
    assert {claim.unit for claim in taken} == {0, 1, 2} and {claim.number for claim in taken} == {1}
    assert one.take() is None and two.take() is None and not one.is_over


def test_what_is_finished_is_over(store):
    one = worker(store, units=2 * SHARD + 1)
    for _ in range(2 * SHARD + 1):
        one.end(one.take(), "finished", {})
    assert one.take() is None and one.is_over
    two = worker(store, "b", units=2 * SHARD + 1)
    assert two.take() is None and two.is_over


@pytest.mark.parametrize("skew", [0.0, -500.0, 500.0])
def test_a_claim_that_is_not_renewed_is_taken_over_by_the_clock_of_the_store(store, skew):
    one, two = worker(store, "a", units=1, lease=60), worker(store, "b", units=1, lease=60, skew=skew)
    claim = one.take()
    one.renew(claim, {"start": 0, "step": 5})
    store.now += 50
    assert two.take() is None
    one.renew(claim, {"start": 0, "step": 6})
    store.now += 50
    assert two.take() is None
    store.now += 20
    assert two.take() == Claim(0, 2)
    assert not one.holds(claim) and two.holds(Claim(0, 2))


def test_who_wakes_up_renews_nothing(store):
    one, two = worker(store, "a", units=1), worker(store, "b", units=1)
    claim = one.take()
    store.now += 1000
    newer = two.take()
    one.renew(claim, {"step": 7})
    assert not one.holds(claim) and two.holds(newer) and one.take() is None


def test_two_that_take_over_at_once(store):
    worker(store, "a", units=1).take()
    store.now += 1000
    two, three = worker(store, "b", units=1), worker(store, "c", units=1)
    known = two.look(0)[0]
    assert three.take() == Claim(0, 2)
    assert two._claim(0, known) is None


def test_what_was_stopped_is_free_at_once(store):
    one, two = worker(store, "a", units=1), worker(store, "b", units=1)
    one.end(one.take(), "stopped", {})
    assert two.take() == Claim(0, 2)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_failures_are_tried_again_as_often_as_is_said(store, retries):
    one = worker(store, units=1, retries=retries)
    for number in range(1, retries + 2):
        claim = one.take()
        assert claim == Claim(0, number)
        one.end(claim, "failed", {"failed": {"run": "why"}})
    assert one.take() is None and one.is_over
    more = worker(store, "b", units=1, retries=retries + 1)
    assert more.take() == Claim(0, retries + 2)


def test_what_kills_its_workers_is_given_up(store):
    for i in range(MOST_LOST + 1):
        assert worker(store, str(i), units=1).take() == Claim(0, i + 1)
        store.now += 1000
    last = worker(store, "last", units=1)
    assert last.take() is None
    assert last.take() is None and last.is_over
    assert last.look(0)[0].failed(retries=100)


def test_losses_that_got_on_do_not_count(store):
    for i in range(3 * MOST_LOST):
        one = worker(store, str(i), units=1)
        claim = one.take()
        assert claim == Claim(0, i + 1)
        one.renew(claim, {"start": i, "step": i + 1})
        store.now += 1000


def test_losses_before_a_worker_that_got_on_do_not_count(store):
    """Of a unit that takes hours, on machines that are lost every few minutes."""
    for i in range(3 * MOST_LOST):
        one = worker(store, str(i), units=1)
        claim = one.take()
        assert claim == Claim(0, i + 1)
        if i % MOST_LOST == 0:
            one.renew(claim, {"start": i, "step": i + 1})
        store.now += 1000


def test_a_late_failure_does_not_undo_a_result(store):
    one, two = worker(store, "a", units=1, retries=0), worker(store, "b", units=1, retries=0)
    old = one.take()
    store.now += 1000
    two.end(two.take(), "finished", {})
    one.end(old, "failed", {})
    assert one.take() is None and one.is_over and not one.look(0)[0].failed(0)


def test_standings_ignore_what_is_no_claim():
    times = {"000001.001.claim": 1.0, "000001.002.claim": 5.0, "note.txt": 9.0, "000002.001.finished": 2.0}
    known = claims.standings(times)
    assert known == {1: Standing(2, 5.0), 2: Standing(1, 0.0, ended=True, finished=True)}


def test_a_damaged_claim_is_taken_over(store):
    one = worker(store, units=1)
    store.write(one.take().key(), b"{")
    store.now += 1000
    assert worker(store, "b", units=1).take() == Claim(0, 2)


@pytest.mark.long
def test_an_idle_worker_looks_into_few_folders(store):
    one = worker(store, units=10 * SHARD)
    while one.take():
        pass
    before = store.requests
    assert one.take(looks=8) is None and store.requests - before <= 9


def test_costly_units_are_claimed_first(store):
    one = worker(store, units=3 * SHARD)
    assert {one.take().unit for _ in range(SHARD)} == set(range(SHARD))


def test_who_comes_late_is_spared_finished_folders(store):
    one = worker(store, units=3 * SHARD)
    for _ in range(2 * SHARD):
        one.end(one.take(), "finished", {})
    one.end(one.take(), "stopped", {})
    two, before = worker(store, "b", units=3 * SHARD), store.requests
    assert two.take().unit >= 2 * SHARD and store.requests - before == 3  # what is finished, one folder, one claim


def test_folders_with_failures_are_looked_into_by_all(store):
    one = worker(store, units=SHARD + 1, retries=0)
    for _ in range(SHARD + 1):
        one.end(one.take(), "failed", {})
    assert one.take() is None and one.is_over and not store.times(claims.FINISHED)
    assert worker(store, "b", units=SHARD + 1, retries=1).take()


def test_who_is_second_looks_again_and_takes_another(store, monkeypatch):
    one, create, theirs = worker(store), store.create, []

    def late(key, content):
        if len(theirs) < 2:
            theirs.append(key)
            create(key, b"theirs")
        return create(key, content)

    monkeypatch.setattr(store, "create", late)
    claim = one.take()
    assert len({*theirs, claim.key()}) == 3


def test_who_replaces_a_lost_worker_stays_for_its_claim(store):
    """Started again at once, while that is not over yet."""
    one = worker(store, "a", units=2)
    lives, lost = one.take(), one.take()
    two = worker(store, "b", units=2)
    assert not two.may_leave and two.take() is None and not two.may_leave
    for _ in range(3):
        store.now += 15
        one.renew(lives, {})
        assert two.take() is None and not two.may_leave
    store.now += 20
    one.renew(lives, {})
    assert two.take() == Claim(lost.unit, 2)
    assert two.take() is None and two.may_leave  # it has been there for a lease


def test_who_has_seen_that_all_live_may_leave(store):
    one, two = worker(store, "a", units=1), worker(store, "b", units=1)
    claim = one.take()
    assert two.take() is None and not two.may_leave
    store.now += 15
    one.renew(claim, {})
    assert two.take() is None and two.may_leave


def test_a_listing_that_is_late_is_no_endless_loop(store, monkeypatch):
    """As an NFS client's may be."""
    worker(store, "a").take(), worker(store, "b").take(), worker(store, "c").take()
    monkeypatch.setattr(store, "times", lambda folder: {})
    assert worker(store, "late").take() is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_unit_is_finished_once(seed):
    """Workers that are killed, stopped, put to sleep or fail at random: each unit is published by one claim."""
    store, chance = Memory(), random.Random(seed)
    units, published, sleeping = 7, {}, []

    def publish(one, claim):
        if one.holds(claim):
            published.setdefault(claim.unit, []).append(claim)
            one.end(claim, "finished", {})

    for i in range(1000):
        one = worker(store, str(i), units, skew=chance.uniform(-300, 300), retries=1000)
        claim = one.take()
        if one.is_over:
            break
        if claim:
            one.renew(claim, {"start": 0, "step": chance.randrange(2) + 1})
            what = chance.choice(["finish", "finish", "kill", "stop", "sleep", "fail"])
            if what == "finish":
                publish(one, claim)
            elif what == "sleep":
                sleeping.append((one, claim))
            elif what != "kill":
                one.end(claim, {"stop": "stopped", "fail": "failed"}[what], {})
        store.now += chance.choice([1, 30, 100])
        if sleeping and chance.random() < 0.3:
            publish(*sleeping.pop(chance.randrange(len(sleeping))))
    assert sorted(published) == list(range(units)) and all(len(by) == 1 for by in published.values())


def test_what_a_worker_has_failed_at_is_left_to_others(store):
    """Its machine may be what is broken."""
    broken, good = (worker(store, name, units=4, retries=1) for name in ("broken", "good"))
    held = good.take()
    for _ in range(3):
        broken.end(broken.take(), "failed", {})
    assert broken.take() is None and not broken.is_over
    good.end(held, "finished", {})
    for _ in range(3):
        good.end(good.take(), "finished", {})
    assert broken.take() is None and broken.is_over and not broken.failed


def test_who_is_alone_tries_again_when_all_else_is_done(store):
    one = worker(store, units=2 * SHARD, retries=1, first=0.0)
    first = one.take()
    one.end(first, "failed", {})
    for _ in range(2 * SHARD - 1):
        claim = one.take()
        assert claim.number == 1
        one.end(claim, "finished", {})
    assert one.take() == Claim(first.unit, 2)
    one.end(Claim(first.unit, 2), "failed", {})
    assert one.take() is None and one.is_over and one.failed.keys() == {first.unit}


def test_all_workers_have_one_lease(store):
    claims.agree_on_lease(store, 90.0)
    claims.agree_on_lease(store, 90.0)
    with pytest.raises(InputError, match="lost after 90 seconds: give --lease=90"):
        claims.agree_on_lease(store, 60.0)
    assert claims.agreed_lease(store) == 90.0


def test_a_lease_of_many_digits_is_agreed_on(store):
    for _ in range(2):
        claims.agree_on_lease(store, 123.4567)
