"""How far a disturbance moves a latent, in a unit that the latent itself gives.

posterior  the posterior's standard deviations: distances that the prior's noise would cover anyway are small
codes      the share of codes that changed
spread     the standard deviation over clips, where the latent has nothing else

Distances are roots of means over dimensions and clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrovae.evaluation.diagnostics import Probe
from spectrovae.evaluation.metrics import Estimate, mean, pooled_rmse

UNITS = {"posterior": "posterior standard deviations", "codes": "share of codes", "spread": "spreads over the clips"}


class LatentDrift:
    """Streams over batches: what it keeps grows by one number a clip and part, not by the latents.

    Args:
        codec: its encoder takes the features.

    Attributes:
        kind: a key of ``UNITS``.
        parts: names of the latent's tensors, from the one that the encoder returns first.
    """

    def __init__(self, codec: Any):
        self.probe = Probe(codec.encoder)
        self.representation = codec.representation
        self.kind = "posterior" if self.probe.posteriors else "codes" if self.probe.codes else "spread"
        self.parts = [tensor.name.split(":")[0] for tensor in codec.decoder.inputs]
        self._moved: dict[Any, list[np.ndarray]] = {}
        self._clips = 0
        self._sums: list[Any] = [0.0 for _ in self.parts]
        self._squares: list[Any] = [0.0 for _ in self.parts]
        self._clean: list[np.ndarray] = []
        self._scale: list[np.ndarray] = []

    def clean(self, db: np.ndarray) -> None:
        """The clean dB spectrograms of a batch, before its disturbed ones."""
        latents, means, log_variances = self.probe(self.representation.from_db(db))
        self._clean = means if self.kind == "posterior" else latents
        self._scale = [np.exp(-0.5 * log_variance) for log_variance in log_variances]
        if self.kind == "spread":
            self._clips += len(db)
            for index, latent in enumerate(latents):
                latent = latent.astype(np.float64)
                self._sums[index] = self._sums[index] + latent.sum(axis=0)
                self._squares[index] = self._squares[index] + np.square(latent).sum(axis=0)

    def add(self, key: Any, disturbed: Sequence[np.ndarray]) -> None:
        """The same batch disturbed, once or several times; batches of one ``key`` are joined."""
        moved = np.mean([self._distances(db) for db in disturbed], axis=0)
        self._moved.setdefault(key, []).append(moved)

    def result(self, key: Any, **bootstrap_options: Any) -> list[Estimate]:
        """The drift of each part, with its interval over clips; NaN where nothing was added under this key."""
        found = []
        batches = self._moved.get(key, [np.zeros((len(self.parts), 0))])
        for index, moved in enumerate(np.concatenate(batches, axis=1)):
            if self.kind == "codes":
                found.append(mean(moved, **bootstrap_options))
                continue
            estimate = pooled_rmse(moved, np.ones(len(moved)), **bootstrap_options)
            spread = self._spread(index) if self.kind == "spread" else 1.0
            found.append(Estimate(*(value / spread if spread > 0 else np.nan for value in estimate)))
        return found

    def _distances(self, db: np.ndarray) -> list[np.ndarray]:
        """For each part, of each clip, the mean squared distance, or the share of codes changed."""
        latents, means, _ = self.probe(self.representation.from_db(db))
        found = []
        for index, after in enumerate(means if self.kind == "posterior" else latents):
            before = self._clean[index]
            if self.kind == "codes":
                found.append((after != before).reshape(len(db), -1).mean(axis=1))
                continue
            distance = np.subtract(after, before, dtype=np.float64)
            distance = distance * self._scale[index] if self._scale else distance
            found.append(np.square(distance).reshape(len(db), -1).mean(axis=1))
        return found

    def _spread(self, index: int) -> float:
        variance = self._squares[index] / self._clips - np.square(self._sums[index] / self._clips)
        return float(np.sqrt(np.mean(np.maximum(variance, 0.0))))
