"""The simulation of a sweep: its account is whole, and the claims hold in it."""

import pytest

from benchmarks import leases
from benchmarks.leases import Setting


@pytest.mark.parametrize("wait", [False, True])
def test_everything_is_finished_once(wait):
    setting = Setting(units=60, workers=8, length=300.0, life=400.0, wait=wait)
    found = leases.simulate(setting, seed=3)
    assert found["finished"] == 60 and found["published_twice"] == 0
    assert 0.5 < found["utilisation"] < 1 and 0 <= found["lost"]["repeated"] < 0.1
    assert found["utilisation"] + sum(found["lost"].values()) == pytest.approx(1)


def test_without_kills_only_starting_and_asking_cost_time():
    setting = Setting(units=16, workers=1, life=1e12, latency=(0.05, 0.05))
    found = leases.simulate(setting)
    seconds = {what: part * found["hours"] * 3600 for what, part in found["lost"].items()}
    asked = 0.05 * sum(found["requests"].values())
    assert seconds["boot"] == pytest.approx(setting.boot) and seconds["start"] == pytest.approx(16 * setting.start)
    assert seconds["idle"] == seconds["repeated"] == 0 < seconds["requests"] < asked


def test_the_same_seed_is_the_same_sweep():
    setting = Setting(units=20, workers=4)
    assert leases.simulate(setting, seed=1) == leases.simulate(setting, seed=1) != leases.simulate(setting, seed=2)
