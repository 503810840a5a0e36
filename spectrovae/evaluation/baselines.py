"""Reconstructions without a network: what a trained model must beat, and the scale its figures are read on.

Each has ``name``, ``parameters``, ``reconstruct_features`` and ``reconstruct_features_graph``, like a codec, and works
on normalised features ``(clips, bins, frames, channels)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from spectrovae.pca import MAX_CLIPS, principal_components


class Identity:
    """Hands its input back: no error, and nothing removed from a perturbed input either."""

    name = "identity"
    parameters = 0

    def reconstruct_features(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features, np.float32)

    def reconstruct_features_graph(self, features):
        return features


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

    def reconstruct_features_graph(self, features):
        return tf.broadcast_to(self.mean, tf.shape(features))


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
        return np.asarray(self.reconstruct_features_graph(tf.cast(features, tf.float32)))

    def reconstruct_features_graph(self, features):
        latent = tf.matmul(tf.reshape(features - self.mean, [-1, self.mean.size]), self.components, transpose_b=True)
        return tf.reshape(tf.matmul(latent, self.components), tf.shape(features)) + self.mean


Baseline = Identity | Mean | PCA


def fit_baselines(
    batches: Iterable, components: Sequence[int] = (8, 32, 128), *, max_clips: int = MAX_CLIPS, seed: int = 0
) -> list[Baseline]:
    """Fit the identity, every PCA-k and the mean in one pass over the training features.

    The principal components are those of at most ``max_clips`` clips: see
    :func:`spectrovae.pca.principal_components`. The mean baseline uses every clip.

    Args:
        batches: training features, arrays or tensors (clips, bins, frames, channels).
        components: the values of k, each taken once; those that the clips do not span are left out.
        max_clips: most clips the principal components are fitted on.
        seed: seed of the sampling.

    Returns:
        [Identity, PCA of each k from the largest, Mean]: from the least error to the most.

    Raises:
        InputError: there is no clip.
    """
    sizes = sorted(set(components), reverse=True)
    found = principal_components(batches, max(sizes, default=0), max_clips=max_clips, seed=seed)
    pcas = [PCA(found.mean, found.components[:k]) for k in sizes if k <= len(found.components)]
    return [Identity(), *pcas, Mean(found.overall_mean)]
