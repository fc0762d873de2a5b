"""How far a sweep is, by few requests."""

import pytest
from stores import Memory

from pini_jax.core import bucket
from pini_jax.runs import progress
from pini_jax.runs.claims import Claims
from pini_jax.runs.plan import Plan, Planned


def plan_of(units, each=1):
    runs = [[Planned(f"run_{i}_{j}", i, 10, {}, {}) for j in range(each)] for i in range(units)]
    return Plan({}, runs)


@pytest.fixture
def store():
    return Memory()


def worker(store, units, name="a"):
    return Claims(store, units, name, first=0.0, monotonic=lambda: store.now)


def test_nothing_is_begun(store):
    now = progress.read_progress(plan_of(3, each=2), store)
    assert (now.runs, now.waiting, now.finished, now.num_running) == (6, 6, 0, 0)
    assert now.seconds_left is None and not now.failed


def test_every_run_is_in_one_state(store):
    one = worker(store, 5)
    finished, failed, stopped, running, lost = (one.take() for _ in range(5))
    one.end(finished, "finished", {})
    one.end(failed, "failed", {"failed": {"run_1_0": "why"}})
    one.end(stopped, "stopped", {})
    store.now += 100
    one.renew(running, {"step": 5, "steps": 10, "rate": 2.0})
    now = progress.read_progress(plan_of(5, each=2), store, retries=0)
    assert (now.finished, now.num_running, now.waiting, now.failed) == (3, 2, 4, {"run_1_0": "why"})
    (said,) = now.running
    assert said == (running.unit, "a", 5, 10, 2.0)
    again = progress.read_progress(plan_of(5, each=2), store, retries=1)
    assert not again.failed and again.waiting == 6


def test_the_time_left_is_by_cost(store):
    one = worker(store, 4)
    for seconds in (10, 20):
        claim = one.take()
        store.now += seconds
        one.end(claim, "finished", {})
    # The second unit took 20 s for a cost of 10; two of its kind are left.
    assert progress.read_progress(plan_of(4), store).seconds_left == pytest.approx(40)


def test_requests_for_ten_thousand_runs(store):
    """A hundred lists, and one for each of what runs or has failed: in 5 s at 50 ms each and 32 at once."""
    plan, one = plan_of(10_000), worker(store, 10_000)
    done = [one.take() for _ in range(600)]
    for claim in done[512:550]:
        one.end(claim, "failed", {"failed": {f"run_{claim.unit}_0": "why"}})
    for claim in done[550:]:
        one.end(claim, "finished", {})
    store.requests = 0
    now = progress.read_progress(plan, store, retries=0)
    assert store.requests == 1 + 100 + 512 + 38 and store.requests / bucket.AT_ONCE * 0.05 < 2
    assert (now.num_running, len(now.failed), now.finished, now.waiting) == (512, 38, 50, 9400)


def test_what_killed_its_workers_is_a_failure(store):
    for i in range(100):
        if worker(store, 1, str(i)).take() is None:
            break
        store.now += 1000
    (reason,) = progress.read_progress(plan_of(1), store).failed.values()
    assert "lost again and again" in reason


def test_a_worker_that_is_long_gone_is_not_running(store):
    """Though nobody has written anything since."""
    worker(store, 2).take()
    assert progress.read_progress(plan_of(2), store, not_before=store.now + 30).num_running == 1
    assert progress.read_progress(plan_of(2), store, not_before=store.now + 90).num_running == 0


def test_the_reason_of_a_failure_outlives_a_worker_that_was_stopped(store):
    one = worker(store, 1)
    one.end(one.take(), "failed", {"failed": {"run_0_0": "why"}})
    one.end(one.take(), "stopped", {})
    assert progress.read_progress(plan_of(1), store, retries=0).failed == {"run_0_0": "why"}
