"""Rows of work on threads."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from pini_jax.core import threads


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_results_are_in_the_order_of_the_rows():
    assert threads.side_by_side(lambda a, b: a - b, range(50), range(0, 100, 2)) == [-i for i in range(50)]


def test_rows_run_at_the_same_time(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    both = threading.Barrier(2)
    threads.side_by_side(lambda _: both.wait(timeout=600), range(2))


def test_blas_has_one_thread_within_and_its_own_afterwards():
    np.eye(2) @ np.eye(2)
    before = blas_threads()
    within = threads.side_by_side(lambda _: blas_threads(), range(3))
    assert all(found <= {1} for found in within) and blas_threads() == before


def test_what_goes_wrong_in_a_row_is_raised():
    with pytest.raises(ZeroDivisionError):
        threads.side_by_side(lambda x: 1 / x, [1, 0, 1])
