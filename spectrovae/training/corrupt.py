"""Denoising: perturbed sounds in, clean ones out, whatever the family.

An example's perturbation is a function of (seed, epoch, example), as its place in the order is: a run that was stopped
continues with the very noise it would have seen. Validation has a noise of its own, the same in every epoch.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError
from spectrovae.evaluation.perturbations import find, parse, perturb, perturb_waveforms

TRAINING = 1
"""Last number of an example's key: noise seen in training is not that of an evaluation."""


class Corruption:
    """Makes (perturbed, clean) pairs of features.

    Args:
        text: ``NAME`` or ``NAME:SEVERITY``, of ``evaluation.perturbations.PERTURBATIONS``.
        representation: analyses the sounds.
        seed: of the perturbations.

    Raises:
        InputError: no such perturbation or severity, or one that cannot be done at the representation's sample rate.
    """

    def __init__(self, text: str, representation: Any, seed: int):
        self.name, self.severity = parsed(text)
        self.representation, self.seed = representation, seed
        self.domain = find(self.name).domain
        if self.domain == "waveform":
            self._perturbed(np.zeros((1, representation.sample_rate), np.float32), [0], -1)

    def pairs(self, recordings: Any, split: str, batch_size: int, **order: Any) -> tf.data.Dataset:
        """Batches of (perturbed, clean) features, each float32 (batch, bins, frames, channels).

        Under per-example scaling both are scaled by the perturbed one's minimum and maximum, which is what a model's
        output is brought back with.

        Args:
            order: ``shuffle``, ``seed`` and ``first_epoch`` of ``Recordings.waveforms``.
        """
        batches = recordings.waveforms(split, batch_size, numbered=True, **order)
        return batches.map(self._pair, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _pair(self, waveforms, rows, epoch):
        representation = self.representation
        clean = representation.decibels(waveforms)
        source = waveforms if self.domain == "waveform" else clean
        noisy = tf.ensure_shape(tf.numpy_function(self._perturbed, [source, rows, epoch], tf.float32), source.shape)
        if self.domain == "waveform":
            noisy = representation.decibels(noisy)
        statistics = representation.statistics(noisy) if representation.normalisation == "per_example" else None
        return representation.from_db(noisy, statistics), representation.from_db(clean, statistics)

    def _perturbed(self, source: np.ndarray, rows: Any, epoch: int) -> np.ndarray:
        keys = [(int(epoch) + 1, int(row), TRAINING) for row in rows]
        options: dict[str, Any] = {"name": self.name, "seed": self.seed}
        if self.domain == "waveform":
            rate = self.representation.sample_rate
            return perturb_waveforms(source, self.severity, keys, sample_rate=rate, **options)
        return perturb(source, self.severity, keys, representation=self.representation, **options)


class CleanValidation(keras.callbacks.Callback):
    """Adds what the validation split's clean features cost to the logs of each epoch, as ``val_clean_...``."""

    def __init__(self, batches: tf.data.Dataset):
        super().__init__()
        self.batches = batches

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            found = self.model.evaluate(self.batches, verbose=0, return_dict=True)
            logs.update({f"val_clean_{name}": value for name, value in found.items()})


def parsed(text: str) -> tuple[str, float]:
    """Name and severity of ``NAME`` or ``NAME:SEVERITY``.

    Raises:
        InputError: no such perturbation or severity, or several.
    """
    name, severities = parse(text)
    if len(severities) > 1:
        raise InputError(f"a model is trained on one severity; received {text!r}")
    return name, severities[0] if severities else find(name).default


def canonical(text: str | None) -> str | None:
    """``NAME:SEVERITY``; None where nothing is corrupted ("none", or a severity that changes nothing)."""
    if text is None or text == "none":
        return None
    name, severity = parsed(text)
    return None if severity == find(name).none else f"{name}:{severity:g}"
