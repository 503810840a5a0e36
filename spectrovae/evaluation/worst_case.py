"""The disturbance within a ball that hurts a system most, found by projected gradient ascent.

Random noise says little about the worst: networks may be led astray by disturbances far smaller than those they average
away. The ball is of the largest change of any cell, in dB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae.evaluation.perturbations import Key, perturb
from spectrovae.evaluation.systems import System
from spectrovae.models import conditioning

NAME = "worst-case"
STEPS = 20
SEVERITIES = (1.0, 2.0, 5.0)
STRIDE = 2.5
"""A step, in radii divided by the number of steps: from anywhere in the ball its boundary is within reach."""

MEANING = "the worst found within ±{} dB in every cell"
ESTIMATED = "gradient estimated past the codes"
BLOCKED = "no gradient passes the codes"


class WorstCase:
    """Projected gradient ascent through one system (Madry et al., 2018), on the squared error against the clean input.

    Args:
        system: a model or a baseline.
        steps: of the ascent.

    Attributes:
        possible: whether a gradient passes. Past the codes of a VQ-VAE goes the quantiser's estimate of it; the error
            that is maximised is the true one.
        note: what to know of the gradient; empty where it is exact.
    """

    def __init__(self, system: System, steps: int = STEPS):
        self.steps = steps
        self.representation = system.representation
        path = gradient_path(system.reconstructor)
        self.possible = path is not None
        self._path: Any = path
        codes = getattr(system.reconstructor, "quantiser", None) is not None
        self.note = (ESTIMATED if codes else "") if self.possible else BLOCKED
        self._ascend = tf.function(self._step, reduce_retracing=True)

    def __call__(self, db: np.ndarray, radius: float, clips: Sequence[Key], *, seed: int = 0) -> np.ndarray:
        """Disturb dB spectrograms (clips, bins, frames, channels) by at most ``radius`` dB in any cell of the level.

        It starts from uniform noise in the ball, which depends on seed and clip as in ``perturb``; the worst of the
        points passed is returned, each clip's own.
        """
        clean = np.asarray(db, np.float32)
        worst = point = perturb(clean, radius, clips, seed=seed)
        if radius == 0:
            return worst
        most = np.full(len(clean), -np.inf)
        for _ in range(self.steps + 1):
            error, ahead = self._ascend(point, clean, radius)
            better = np.asarray(error) > most
            most = np.where(better, error, most)
            worst = np.where(better[:, None, None, None], point, worst)
            point = np.asarray(ahead)
        return worst

    def _step(self, point, clean, radius):
        """The squared error of each clip at ``point``, and the next point."""
        with tf.GradientTape() as tape:
            tape.watch(point)
            error = tf.reduce_sum(tf.square(self._output(point) - clean)[..., :1], axis=[1, 2, 3])
        gradient = tape.gradient(error, point, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        moved = point + STRIDE / self.steps * radius * tf.sign(gradient)
        level = tf.clip_by_value(moved[..., :1], clean[..., :1] - radius, clean[..., :1] + radius)
        return error, tf.concat([level, clean[..., 1:]], axis=-1)

    def _output(self, db):
        features = self._path(self.representation.from_db(db))
        return self.representation.to_db(features, self.representation.statistics(db))


def gradient_path(reconstructor: Any) -> Callable | None:
    """Features -> features of a codec of one segment or a baseline, with a gradient; None where none can pass."""
    encoder = getattr(reconstructor, "encoder", None)
    if encoder is None:
        return reconstructor.reconstruct_features_graph
    decoder = reconstructor.decoder
    if not any("int" in str(output.dtype) for output in encoder.outputs):
        return lambda features: decoder(encoder(features))
    names = ({layer.name for layer in part.layers} for part in (encoder, conditioning.whole(decoder)))
    if reconstructor.quantiser is None or any(n not in found for n, found in zip(("encodings", "codebook"), names)):
        return None
    analysis = keras.Model(encoder.input, encoder.get_layer("encodings").output)
    synthesis = conditioning.part(decoder, "codebook")
    quantiser = reconstructor.quantiser
    return lambda features: synthesis(quantiser.estimate(analysis(features), False).vectors)
