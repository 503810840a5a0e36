"""The statistics of normalisation: features are ``(values - shift) / scale``, forward and inverse from the same two.

Values are what a representation normalises: levels in dB, companded coefficients, or linear amplitudes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError

NORMALISATIONS = ("range", "per_bin", "per_example")
STILL = 1e-6  # a bin that varies by less than this part of its mean, or of what bins vary by, is constant


def shift_and_scale(representation: Any, statistics=None) -> tuple[Any, Any]:
    """Shift and scale of a representation's values, in shapes that broadcast to (batch, bins, frames, 1).

    Args:
        statistics: under ``"per_example"``, extremes in dB [shape=(batch, 2)]; without them those of the fixed range.
    """
    if representation.normalisation == "per_bin":
        return column(representation.bin_mean), column(representation.bin_std)
    if representation.normalisation == "per_example" and statistics is not None:
        extremes = tf.cast(statistics, tf.float32)[:, None, None]
        low, high = extremes[..., 0:1], extremes[..., 1:2]
    else:
        low, high = representation.min_db, representation.max_db
    if representation.from_zero:
        return 0.0, representation.value_of(high)
    low, high = representation.value_of(low), representation.value_of(high)
    return low, high - low


def normalise(values, shift, scale):
    """Values -> features; 0 where an example has no range."""
    return tf.math.divide_no_nan(values - shift, scale)


def denormalise(features, shift, scale):
    """The inverse of :func:`normalise`."""
    return features * scale + shift


def extremes_of(level):
    """Minimum and maximum of each example [shape=(batch, 2)]."""
    return tf.stack([tf.reduce_min(level, axis=(1, 2, 3)), tf.reduce_max(level, axis=(1, 2, 3))], axis=-1)


def bin_statistics(batches: Iterable, about_zero: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each bin over batches of values (batch, bins, frames, 1), in one pass.

    A constant bin gets the geometric mean of the others' standard deviations, 1 where all are constant: divided by
    next to nothing, whatever a decoder answers there would be heard.

    Args:
        about_zero: take deviations from 0, with a mean of 0, so that a sign stays a sign.

    Raises:
        InputError: there are no values.
    """
    count, origin, total, squares = 0, None, 0.0, 0.0
    for batch in batches:
        values = np.moveaxis(np.asarray(batch, np.float64)[..., 0], 1, 0).reshape(batch.shape[1], -1)
        if not values.size:
            continue
        if origin is None:  # near the mean, so that the difference of squares keeps its digits
            origin = np.zeros((len(values), 1)) if about_zero else values.mean(axis=1, keepdims=True)
        count += values.shape[1]
        total = total + (values - origin).sum(axis=1)
        squares = squares + np.square(values - origin).sum(axis=1)
    if origin is None:
        raise InputError("adapt needs at least one waveform, received an empty data set")
    offset = np.zeros(len(origin)) if about_zero else total / count
    mean, std = origin[:, 0] + offset, np.sqrt(np.maximum(squares / count - offset**2, 0.0))
    moving = std > STILL * np.maximum(np.abs(mean), np.sqrt(np.mean(std**2)))
    return mean, np.where(moving, std, np.exp(np.mean(np.log(std[moving]))) if moving.any() else 1.0)


def column(values):
    """One value a bin, in the shape of features."""
    return tf.reshape(tf.convert_to_tensor(values), [1, -1, 1, 1])
