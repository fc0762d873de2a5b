"""What messages say of a time."""

from pini_jax.core.wording import duration


def test_durations_have_two_units_at_most():
    found = [duration(x) for x in (1, 40, 120, 3600, 4000, 36_000, 90_061)]
    assert found == ["1 s", "40 s", "2 min", "1 h 0 min", "1 h 7 min", "10 h 0 min", "1 d 1 h"]
