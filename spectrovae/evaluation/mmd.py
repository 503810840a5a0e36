"""Maximum mean discrepancy: how far apart two sets of feature vectors are as distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrovae.errors import InputError
from spectrovae.evaluation.metrics import Estimate

BLOCK_CLIPS = 1000
"""Clips compared with each other at once; a larger set is the mean over random blocks, in linear time."""
_SIGNS = 4_000_000  # drawn at once: 16 MB


def squared_mmd(
    originals: np.ndarray,
    estimates: np.ndarray,
    *,
    clusters: Sequence[Any] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Unbiased squared MMD of pairs of vectors, with its interval; both may be negative.

    The kernel is (x . y / d + 1)^3, which sees means, covariances and skewness. The estimate of a clip and its original
    are not independent, so a clip is never compared with itself, in the cross term neither: the U-statistic of
    h = k(x, x') + k(y, y') - k(x, y') - k(x', y) over pairs of different clips.

    Near 0 the U-statistic is degenerate: its linear part vanishes, and the ordinary bootstrap of clips is not
    consistent (Arcones and Gine, 1992). Here the two parts of its Hoeffding decomposition, h(i, j) - U = a_i + a_j +
    b_ij, are drawn by random signs e: 2 sum(e_i a_i) / n + sum(e_i e_j b_ij) / (n (n - 1)). At 0 the second is the wild
    bootstrap of a degenerate U-statistic, and what is left of the first, an estimate of nothing, makes the interval
    somewhat too wide; far from 0 the first is the normal interval. The interval reaches as far to either side as
    these draws do.

    Args:
        originals, estimates: (clips, d), row by row of the same clip, of about unit variance.
        clusters: as for ``metrics.bootstrap``; clips of one cluster have one sign.
        resamples, confidence, seed: of the interval; it is NaN for fewer than two clips or clusters.

    Raises:
        InputError: the shapes differ.

    Source: Gretton and others, "A Kernel Two-Sample Test" (2012), lemma 6; Binkowski and others, "Demystifying MMD
    GANs" (2018); blocks: Zaremba, Gretton and Blaschko, "B-test" (2013); signs: Dehling and Mikosch, "Random quadratic
    forms and the bootstrap for U-statistics" (1994), Chwialkowski, Sejdinovic and Gretton, "A wild bootstrap for
    degenerate kernel tests" (2014).
    """
    x, y = (np.asarray(values, np.float32) for values in (originals, estimates))
    if x.shape != y.shape or x.ndim != 2:
        raise InputError(f"two arrays of one shape (clips, features) are needed; received {x.shape} and {y.shape}")
    clips = len(x)
    if clips < 2:
        return Estimate(np.nan, np.nan, np.nan)
    rows = np.arange(clips) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    shuffled = np.random.default_rng(seed).permutation(clips)
    blocks = np.array_split(shuffled, -(-clips // BLOCK_CLIPS))
    value, parts = 0.0, []
    for block in blocks:
        own, linear, quadratic = _decomposed(_terms(x[block], y[block]))
        value += own / len(blocks)
        parts.append(_joined(rows[block], linear / len(blocks), quadratic / len(blocks)))
    groups = int(rows.max()) + 1
    if groups < 2:
        return Estimate(value, np.nan, np.nan)
    random, drawn = np.random.default_rng(seed), []
    for start in range(0, resamples, max(1, _SIGNS // groups)):
        size = min(max(1, _SIGNS // groups), resamples - start)
        signs = random.choice(np.array([-1.0, 1.0], np.float32), size=(size, groups))
        total = np.zeros(size)
        for own_groups, linear, quadratic in parts:
            e = signs[:, own_groups]
            total += e @ linear + np.einsum("ij,ij->i", e @ quadratic, e, dtype=np.float64)
        drawn.append(total)
    reach = float(np.percentile(np.abs(np.concatenate(drawn)), 100.0 * confidence))
    return Estimate(value, value - reach, value + reach)


def _decomposed(h: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The U-statistic of a symmetric h (clips, clips), and what signs multiply: 2 a_i / n, and b_ij / (n (n - 1))."""
    n = len(h)
    value = float(h.sum(dtype=np.float64)) / (n * (n - 1))
    a = h.sum(axis=1, dtype=np.float64) / (n - 1) - value
    b = h - value - a[:, None] - a
    np.fill_diagonal(b, 0.0)
    return value, 2.0 * a / n, b / (n * (n - 1))


def _joined(rows: np.ndarray, linear: np.ndarray, quadratic: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over clips of one cluster; pairs within one, whose sign is always 1, are left out."""
    groups, places = np.unique(rows, return_inverse=True)
    member = (places == np.arange(len(groups))[:, None]).astype(np.float64)
    between = member @ quadratic @ member.T
    np.fill_diagonal(between, 0.0)
    return groups, (member @ linear).astype(np.float32), between.astype(np.float32)


def _terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(x, x') + k(y, y') - k(x, y') - k(x', y) of all pairs of clips, 0 on the diagonal."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    cross = kernel(x, y)
    terms = kernel(x, x) + kernel(y, y) - cross - cross.T
    np.fill_diagonal(terms, 0.0)
    return terms
