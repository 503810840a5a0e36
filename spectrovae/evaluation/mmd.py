"""Maximum mean discrepancy: how far apart two sets of feature vectors are as distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrovae.errors import InputError
from spectrovae.evaluation.metrics import Estimate, resampled

BLOCK_CLIPS = 1000
"""Clips compared with each other at once; a larger set is the mean over random blocks, in linear time."""


def squared_mmd(
    originals: np.ndarray,
    estimates: np.ndarray,
    *,
    clusters: Sequence[Any] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Unbiased squared MMD of pairs of vectors, with a percentile interval; it may be negative.

    The kernel is (x . y / d + 1)^3, which sees means, covariances and skewness. The estimate of a clip and its original
    are not independent, so a clip is never compared with itself, in the cross term neither: the U-statistic of
    k(x, x') + k(y, y') - k(x, y') - k(x', y) over pairs of different clips. A resample weighs each clip by its count,
    and two copies of one clip are not compared.

    Args:
        originals, estimates: (clips, d), row by row of the same clip, of about unit variance.
        clusters: as for ``metrics.bootstrap``.
        resamples, confidence, seed: of the interval.

    Raises:
        InputError: the shapes differ.

    Source: Gretton and others, "A Kernel Two-Sample Test" (2012), lemma 6; Binkowski and others, "Demystifying MMD
    GANs" (2018); blocks: Zaremba, Gretton and Blaschko, "B-test" (2013).
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
    terms = [(rows[block], _terms(x[block], y[block])) for block in blocks]
    value = np.mean([h.sum(dtype=np.float64) / (len(h) * (len(h) - 1)) for _, h in terms])
    draws = []
    for counts in resampled(int(rows.max()) + 1, resamples, seed):
        found = np.zeros(len(counts))
        for own, h in terms:
            weights = counts[:, own].astype(np.float32)
            pairs = np.sum(weights, axis=1, dtype=np.float64) ** 2 - np.sum(weights**2, axis=1, dtype=np.float64)
            total = np.einsum("ij,ij->i", weights @ h, weights, dtype=np.float64)
            found += np.divide(total, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
        draws.append(found / len(terms))
    drawn = np.concatenate(draws)
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return Estimate(float(value), np.nan, np.nan)
    low, high = np.percentile(drawn, [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)])
    return Estimate(float(value), float(low), float(high))


def _terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(x, x') + k(y, y') - k(x, y') - k(x', y) of all pairs of clips, 0 on the diagonal."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    cross = kernel(x, y)
    terms = kernel(x, x) + kernel(y, y) - cross - cross.T
    np.fill_diagonal(terms, 0.0)
    return terms
