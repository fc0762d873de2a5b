"""Parameters of which `make test` tries a few, and `make test-long` the rest."""

import pytest


def sample(values, *kept):
    """All values; those that are not kept are long."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in values]
