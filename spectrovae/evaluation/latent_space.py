"""The latent of any family as points that can be moved and decoded, and what is measured of points and of paths.

A group of latents, whatever its shape, is a vector. Codes are the vectors that they stand for, and a point decodes from
the codes nearest to it. Of a U-Net the bottleneck alone is moved; its skips stay those of one clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from spectrovae.models.base import posteriors_of

NEIGHBOURS = 5
_BATCH = 32

Points = list[np.ndarray]
"""For each group that is moved, float32 (points, dimensions)."""


@dataclasses.dataclass(frozen=True)
class Group:
    """One tensor of the latent: its name, its shape as decoded, and its dimensions, those of the vector."""

    name: str
    shape: tuple[int, ...]
    dimensions: int


class Traversal(NamedTuple):
    """A line through a group of latents, decoded: where it runs, its places, and what is there."""

    group: str
    name: str  # "dimension 12" or "axis 1"
    places: np.ndarray
    decoded: np.ndarray  # dB (places, bins, frames, channels)


class Drawn(NamedTuple):
    """What the page shows beside the figures: decoded points, in dB."""

    traversals: list[Traversal]
    mesh: np.ndarray  # (rows, columns, bins, frames, channels)
    mesh_axes: tuple[str, str]
    draws: dict[str, np.ndarray]
    paths: list[tuple[str, np.ndarray, np.ndarray]]  # title, along the latent's line, along the mix's


class LatentSpace:
    """The latent of a codec as vectors.

    Args:
        codec: of any family.
        reference: features of a clip (1, bins, frames, channels), whose latents stand for what is not moved.

    Attributes:
        kind: "posterior" (points are posterior means; each group has the prior N(0, I)), "codes" or "numbers".
        groups: what is moved.
        held: names of what is not.
    """

    def __init__(self, codec: Any, reference: np.ndarray):
        self.codec, self.quantiser = codec, codec.quantiser
        if self.quantiser is not None:
            self.kind = "codes"
        else:
            self.kind = "numbers" if posteriors_of(codec.encoder) is None else "posterior"
        names = [tensor.name.split(":")[0] for tensor in codec.decoder.inputs]
        # Of several tensors without a prior the first is a bottleneck, and the rest are skips.
        self._moved = len(names) if self.kind == "posterior" else 1
        self._skips = self._parts(reference)[self._moved :]
        self.held = names[self._moved :]
        parts = [self._vectors(part) for part in self._parts(reference)[: self._moved]]
        self.groups = [Group(name, part.shape[1:], int(np.prod(part.shape[1:]))) for name, part in zip(names, parts)]

    def encode(self, features: np.ndarray) -> Points:
        """Features (clips, bins, frames, channels) -> points."""
        return self._encode(features, self._moved)

    def encode_whole(self, features: np.ndarray) -> Points:
        """:meth:`encode`, and the clips' own skips after it."""
        return self._encode(features, None)

    def decode(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """Points -> what the representation synthesises from, its level in dB first (points, bins, frames, channels).

        Args:
            points: as :meth:`encode` gives them, or :meth:`encode_whole`.
        """
        decoded = []
        for start in range(0, len(points[0]), _BATCH):
            rows = [np.asarray(group[start : start + _BATCH], np.float32) for group in points]
            parts = [self._tensor(row, group.shape) for row, group in zip(rows, self.groups)]
            if len(rows) > self._moved:
                parts += [row.reshape(-1, *skip.shape[1:]) for row, skip in zip(rows[self._moved :], self._skips)]
            else:
                parts += [np.repeat(skip, len(rows[0]), axis=0) for skip in self._skips]
            decoded.append(np.asarray(self.codec.decoder(parts if len(parts) > 1 else parts[0], training=False)))
        return np.asarray(self.codec.representation.to_db(np.concatenate(decoded).astype(np.float32)))

    def _encode(self, features: np.ndarray, count: int | None) -> Points:
        batches = []
        for start in range(0, len(features), _BATCH):
            parts = self._parts(features[start : start + _BATCH])[:count]
            moved = [self._vectors(part) for part in parts[: self._moved]]
            batches.append([part.reshape(len(part), -1) for part in [*moved, *parts[self._moved :]]])
        return [np.concatenate(group) for group in zip(*batches)]

    def _parts(self, features: np.ndarray) -> list[np.ndarray]:
        outputs = keras.tree.flatten(self.codec.encoder(tf.cast(features, tf.float32), training=False))
        return [np.asarray(part if part.dtype.is_integer else tf.cast(part, tf.float32)) for part in outputs]

    def _vectors(self, part: np.ndarray) -> np.ndarray:
        return part if self.quantiser is None else np.asarray(self.quantiser.lookup(part))

    def _tensor(self, row: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        tensor = row.reshape(-1, *shape)
        return tensor if self.quantiser is None else np.asarray(self.quantiser.nearest(tensor))


def effective_dimensions(variances: np.ndarray, total: float) -> float:
    """Participation ratio (sum v)^2 / sum v^2 of a PCA spectrum: n for n equal variances; 0 of nothing."""
    variances = np.asarray(variances, np.float64)
    return float(total**2 / np.sum(variances**2)) if np.any(variances > 0) else 0.0


def neighbour_accuracy(points: np.ndarray, classes: np.ndarray) -> float:
    """Share of points (n, d) whose class most of their ``NEIGHBOURS`` nearest others have; of equals the nearest's."""
    order = _nearest(points)
    votes = classes[order]
    # how many of the neighbours agree with each; argmax takes the nearest of equals
    agreeing = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    return float(np.mean(votes[np.arange(len(votes)), agreeing.argmax(axis=1)] == classes))


def neighbour_r2(points: np.ndarray, values: np.ndarray) -> float:
    """Share of the variance of values (n,) that the mean of the ``NEIGHBOURS`` nearest others explains; may be < 0."""
    values = np.asarray(values, np.float64)
    variance = np.var(values)
    return float(1.0 - np.mean((values - values[_nearest(points)].mean(axis=1)) ** 2) / variance) if variance else 0.0


def _nearest(points: np.ndarray) -> np.ndarray:
    distances = _squared_distances(points, points)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(points) - 1)]


def nearest_db(levels: np.ndarray, others: np.ndarray, *, themselves: bool = False) -> np.ndarray:
    """RMS difference in dB of each spectrogram (n, cells) to the nearest of the others (m, cells) [shape=(n,)].

    Args:
        themselves: the others are the same spectrograms, and none is its own neighbour.
    """
    squared = _squared_distances(levels, others)
    if themselves:
        np.fill_diagonal(squared, np.inf)
    return np.sqrt(squared.min(axis=1) / levels.shape[1])


def spread_db(levels: np.ndarray) -> float:
    """Mean RMS difference in dB between two of the spectrograms (n, cells)."""
    if len(levels) < 2:
        return 0.0
    distances = np.sqrt(_squared_distances(levels, levels) / levels.shape[1])
    return float(distances[~np.eye(len(levels), dtype=bool)].mean())


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    centre = b.mean(axis=0)  # differences of large equal numbers lose digits
    a, b = a - centre, b - centre
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * a @ b.T
    return np.maximum(squared, 0.0)


def path_figures(levels: np.ndarray) -> dict[str, float] | None:
    """How straight and how even a path of spectrograms is.

    Args:
        levels: dB, in the order of the path [shape=(steps + 1, cells)].

    Returns:
        ``direct_db``, the RMS difference of the ends; ``ratio``, the path's length in that measure over it, 1 where the
        path is straight; ``largest_step``, the largest step over the mean step, and ``variation``, the coefficient of
        variation of the steps: 1 and 0 where the path is even. None where the ends are alike.
    """
    levels = np.asarray(levels, np.float64)
    steps = np.sqrt(np.mean(np.diff(levels, axis=0) ** 2, axis=1))
    direct = float(np.sqrt(np.mean((levels[-1] - levels[0]) ** 2)))
    if direct < 1e-6:
        return None
    return {
        "direct_db": direct,
        "ratio": float(steps.sum() / direct),
        "largest_step": float(steps.max() / steps.mean()),
        "variation": float(steps.std() / steps.mean()),
    }
