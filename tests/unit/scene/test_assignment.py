from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from edgeinfer.scene import assignment
from edgeinfer.scene.assignment import best_pairs


def best_total(weights):
    """By trying all."""
    if weights.shape[0] > weights.shape[1]:
        weights = weights.T
    rows, columns = weights.shape
    return max(sum(weights[row, chosen[row]] for row in range(rows)) for chosen in permutations(range(columns), rows))


def sparse(weights):
    return {(row, column): weights[row, column] for row, column in zip(*weights.nonzero(), strict=True)}


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_no_other_pairing_weighs_more(density):
    random = np.random.default_rng(8)
    for _ in range(60):
        shape = random.integers(1, 7, size=2)
        weights = random.random(shape) * (random.random(shape) < density)
        pairs = best_pairs(sparse(weights))
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        assert all(weights[pair] > 0 for pair in pairs)
        assert sum(weights[pair] for pair in pairs) == pytest.approx(best_total(weights))


def test_a_hundred_objects_that_all_touch_are_paired():
    hidden = np.random.default_rng(1).permutation(100)
    weights = np.random.default_rng(2).random((100, 100)) * 0.5
    weights[np.arange(100), hidden] += 1.0
    assert sorted(best_pairs(sparse(weights))) == list(enumerate(hidden))


def test_rows_that_want_different_columns_most_need_no_solver(monkeypatch):
    monkeypatch.setattr(assignment, "_solved", lambda *given: pytest.fail("solved"))
    assert best_pairs({(0, 1): 0.5, (0, 2): 0.9, (1, 1): 0.8, (1, 2): 0.4}) == [(0, 2), (1, 1)]


def test_where_nothing_fits_there_are_no_pairs():
    assert best_pairs({}) == []
