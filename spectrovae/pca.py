"""Principal components of a set of clips too large for its covariance, in one pass over its batches (NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import scipy.linalg

from spectrovae.errors import InputError

MAX_CLIPS = 4000
MAX_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
    """Mean and leading principal directions of clips.

    Attributes:
        mean: of the clips that the directions were fitted on [shape=of a clip].
        components: orthonormal rows, of greatest variance first [shape=(k, cells of a clip)].
        variances: of the clips along each, in squared feature units [shape=(k,)].
        total_variance: of the clips, summed over all directions.
        overall_mean: of all clips seen [shape=of a clip].
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    total_variance: float
    overall_mean: np.ndarray


def principal_components(
    batches: Iterable, count: int, *, max_clips: int = MAX_CLIPS, seed: int = 0
) -> PrincipalComponents:
    """Fit at most ``count`` principal components in one pass.

    They are exact, from the Gram matrix of the clips (the snapshot method of Sirovich, 1987), so the clips are held in
    memory: at most ``max_clips`` of them and at most half a gigabyte, a uniform sample (by reservoir) of a larger set.
    Directions without variance are left out, and clips span one direction fewer than there are of them: there may be
    fewer than ``count``.

    Args:
        batches: arrays or tensors (clips, ...).
        seed: of the sampling.

    Raises:
        InputError: there is no clip.
    """
    random = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    total, seen = np.zeros(()), 0
    for batch in batches:
        clips = np.asarray(batch, np.float32)
        total = total + clips.sum(axis=0, dtype=np.float64)
        capacity = max(2, min(max_clips, MAX_BYTES // clips[0].nbytes))
        for clip in clips:
            place = seen if seen < capacity else random.integers(seen + 1)
            # Copies: a view would keep all of its batch in memory.
            if place == len(kept):
                kept.append(clip.copy())
            elif place < capacity:
                kept[place] = clip.copy()
            seen += 1
    if not seen:
        raise InputError("principal components need at least one training clip; received none: look at the train split")
    shape = kept[0].shape
    clips = np.stack([clip.ravel() for clip in kept])
    kept.clear()
    mean = clips.mean(axis=0)
    clips -= mean
    components, variances = _directions(clips, min(count, len(clips) - 1))
    total_variance = float(np.sum(np.square(clips), dtype=np.float64)) / max(len(clips) - 1, 1)
    return PrincipalComponents(
        mean.reshape(shape), components, variances, total_variance, np.asarray(total / seen, np.float32)
    )


def _directions(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions (k, dimensions) of greatest variance, and the variances; k is at most ``count``."""
    if count < 1:
        return np.zeros((0, centred.shape[1]), np.float32), np.zeros(0, np.float32)
    gram = (centred @ centred.T).astype(np.float64)
    clips = len(gram)
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[clips - count, clips - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    # float32 products leave noise of this size where the exact eigenvalue is 0
    solid = values > 1e-6 * max(values[0], 1e-30)
    values, vectors = values[solid], vectors[:, solid]
    components = (vectors / np.sqrt(values)).T.astype(np.float32) @ centred
    return components, (values / (clips - 1)).astype(np.float32)
