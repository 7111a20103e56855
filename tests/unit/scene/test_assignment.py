from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from edgeinfer.scene.assignment import best_pairs


def best_total(weights):
    """By trying all."""
    if weights.shape[0] > weights.shape[1]:
        weights = weights.T
    rows, columns = weights.shape
    return max(sum(weights[row, chosen[row]] for row in range(rows)) for chosen in permutations(range(columns), rows))


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_no_other_pairing_weighs_more(density):
    random = np.random.default_rng(8)
    for _ in range(60):
        shape = random.integers(1, 7, size=2)
        weights = random.random(shape) * (random.random(shape) < density)
        pairs = best_pairs(weights)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        assert all(weights[pair] > 0 for pair in pairs)
        assert sum(weights[pair] for pair in pairs) == pytest.approx(best_total(weights))


def test_a_hundred_objects_that_all_touch_are_paired():
    hidden = np.random.default_rng(1).permutation(100)
    weights = np.random.default_rng(2).random((100, 100)) * 0.5
    weights[np.arange(100), hidden] += 1.0
    assert sorted(best_pairs(weights)) == list(enumerate(hidden))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 2)])
def test_where_nothing_fits_there_are_no_pairs(shape):
    assert best_pairs(np.zeros(shape)) == []
