"""Reconstructions without a network: what a trained model must beat, and the scale its figures are read on.

Each has ``name``, ``parameters`` and ``reconstruct_features``, like a codec, and works on normalised features
``(clips, bins, frames, channels)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.linalg

from spectrovae.errors import InputError

MAX_CLIPS = 4000
MAX_BYTES = 512 * 2**20


class Identity:
    """Hands its input back: no error, and nothing removed from a perturbed input either."""

    name = "identity"
    parameters = 0

    def reconstruct_features(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features, np.float32)


class Mean:
    """Answers every clip with the mean features of the training clips.

    Args:
        mean: (bins, frames, channels).
    """

    name = "mean"

    def __init__(self, mean: np.ndarray) -> None:
        self.mean = np.asarray(mean, np.float32)
        self.parameters = self.mean.size

    def reconstruct_features(self, features: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.mean, np.shape(features)).copy()


class PCA:
    """Projects on the leading principal components of the training clips: the best linear autoencoder.

    Args:
        mean: (bins, frames, channels).
        components: (k, bins * frames * channels), orthonormal rows, leading first.
    """

    def __init__(self, mean: np.ndarray, components: np.ndarray) -> None:
        self.name = f"PCA-{len(components)}"
        self.mean = np.asarray(mean, np.float32)
        self.components = np.asarray(components, np.float32)
        self.parameters = self.mean.size + self.components.size

    def reconstruct_features(self, features: np.ndarray) -> np.ndarray:
        centred = (np.asarray(features, np.float32) - self.mean).reshape(len(features), -1)
        latent = centred @ self.components.T
        return (latent @ self.components).reshape(np.shape(features)) + self.mean


Baseline = Identity | Mean | PCA


def fit_baselines(
    batches: Iterable, components: Sequence[int] = (8, 32, 128), *, max_clips: int = MAX_CLIPS, seed: int = 0
) -> list[Baseline]:
    """Fit the identity, every PCA-k and the mean in one pass over the training features.

    The principal components are exact, from the Gram matrix of the clips (one decomposition for all k, the
    snapshot method of Sirovich, 1987), so the clips are held in memory: at most ``max_clips`` of them and at
    most half a gigabyte, a uniform sample (by reservoir) of a larger set. The mean baseline uses every clip.

    Args:
        batches: training features, arrays or tensors (clips, bins, frames, channels).
        components: the values of k; those not below the number of clips are left out.
        max_clips: most clips the principal components are fitted on.
        seed: seed of the sampling.

    Returns:
        [Identity, PCA of each k from the largest, Mean]: from the least error to the most.

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
            if place == len(kept):
                kept.append(clip)
            elif place < capacity:
                kept[place] = clip
            seen += 1
    if not seen:
        raise InputError("the baselines need at least one training clip; received none: look at the train split")
    shape = kept[0].shape
    clips = np.stack([clip.ravel() for clip in kept])
    kept.clear()
    centre = clips.mean(axis=0)
    clips -= centre
    sizes = sorted({k for k in components if k < len(clips)}, reverse=True)
    directions = _principal_directions(clips, max(sizes, default=0))
    pcas = [PCA(centre.reshape(shape), directions[:k]) for k in sizes if k <= len(directions)]
    return [Identity(), *pcas, Mean(total / seen)]


def _principal_directions(centred: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` orthonormal directions (count, dimensions) of greatest variance.

    Directions without variance are left out: there are fewer than ``count`` when the clips span less.
    """
    if count == 0:
        return np.zeros((0, centred.shape[1]), np.float32)
    gram = (centred @ centred.T).astype(np.float64)
    clips = len(gram)
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[clips - count, clips - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    # float32 products leave noise of this size where the exact eigenvalue is 0
    solid = values > 1e-6 * max(values[0], 1e-30)
    return (vectors[:, solid] / np.sqrt(values[solid])).T.astype(np.float32) @ centred
