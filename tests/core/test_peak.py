"""The greatest memory."""

import numpy as np
import pytest

from pini_jax.core import peak


@pytest.mark.skipif(not peak.STATUS.exists(), reason="only Linux tells the greatest memory of a part of a process")
def test_what_was_held_counts_until_it_is_forgotten():
    peak.forget()
    before = peak.peak_bytes()
    np.ones(1 << 24)  # of 8 bytes, and gone
    with_it = peak.peak_bytes()
    assert with_it - before > 0.9 * (1 << 27)
    peak.forget()
    assert peak.peak_bytes() < with_it - 0.5 * (1 << 27)


def test_a_system_that_does_not_tell_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "STATUS", tmp_path / "none")
    assert peak.peak_bytes() is None
