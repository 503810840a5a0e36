"""Draws from categorical distributions."""

import numpy as np
import pytest
import scipy.stats
from keras import ops

from spectrovae.sampling import choose, normal

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
GRID = (np.arange(10_000, dtype=np.float32) + 0.5) / 10_000


def frequencies(**options):
    drawn = np.asarray(choose(np.tile(LOGITS, (len(GRID), 1)), GRID, **options))
    assert drawn.dtype == np.int32
    return np.bincount(drawn, minlength=4) / len(GRID)


def test_classes_come_with_their_probabilities():
    np.testing.assert_allclose(frequencies(), [0.5, 0.25, 0.15, 0.1], atol=2e-4)


def test_temperature_scales_logits():
    expected = np.exp(2.0 * LOGITS)
    np.testing.assert_allclose(frequencies(temperature=0.5), expected / expected.sum(), atol=2e-4)


def test_a_temperature_of_zero_takes_the_likeliest():
    np.testing.assert_array_equal(frequencies(temperature=0.0), [1, 0, 0, 0])


def test_rows_have_temperatures_of_their_own():
    drawn = np.asarray(choose(np.tile(LOGITS, (2, 1)), [0.99, 0.99], temperature=np.float32([0.0, 1.0])))
    np.testing.assert_array_equal(drawn, [0, 3])


@pytest.mark.parametrize(("k", "kept"), [(1, [1, 0, 0, 0]), (2, [2 / 3, 1 / 3, 0, 0]), (0, [0.5, 0.25, 0.15, 0.1])])
def test_top_k_keeps_the_highest(k, kept):
    np.testing.assert_allclose(frequencies(top_k=k), kept, atol=2e-4)


P = [(0.4, [1, 0, 0, 0]), (0.6, [2 / 3, 1 / 3, 0, 0]), (0.8, [5 / 9, 2.5 / 9, 1.5 / 9, 0])]


@pytest.mark.parametrize(("p", "kept"), P)
def test_top_p_keeps_the_fewest_that_hold_it(p, kept):
    np.testing.assert_allclose(frequencies(top_p=p), kept, atol=2e-4)


def test_what_has_no_probability_is_never_drawn():
    logits = np.float32([[0.0, -1e9, 0.0, -1e9]])
    ends = np.float32([0.0, np.nextafter(np.float32(1), np.float32(0))])
    np.testing.assert_array_equal(np.asarray(choose(np.repeat(logits, 2, 0), ends)), [0, 2])


def test_normal_is_the_inverse_distribution_function():
    np.testing.assert_allclose(ops.convert_to_numpy(normal(GRID)), scipy.stats.norm.ppf(GRID), atol=1e-3)
