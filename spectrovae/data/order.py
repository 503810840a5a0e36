"""The order in which examples are taken: decided by a seed and the epoch's number alone."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError


def shuffled(tensors: Any, count: int, batch_size: int, *, seed: int, first_epoch: int) -> tf.data.Dataset:
    """Endless batches of the rows of tensors (nested, of ``count`` rows each) in the order of ``waveforms``."""
    rows = row_batches(count, batch_size, True, seed, first_epoch)
    return rows.map(lambda chosen: tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen), tensors))


def numbered_rows(
    count: int, batch_size: int, shuffle: bool, seed: int, first_epoch: int | None, first_step: int = 0
) -> tf.data.Dataset:
    """Batches of example numbers, with the epoch: the order that every dataset here follows."""
    if batch_size < 1:
        raise InputError(f"batch_size must be positive, received {batch_size}")

    def one_epoch(epoch):
        rows = tf.range(count, dtype=tf.int64)
        if shuffle:
            rows = tf.random.experimental.stateless_shuffle(rows, seed=tf.stack([seed, epoch]))
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size).map(lambda rows: (rows, epoch))

    if first_epoch is not None:
        epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(one_epoch).skip(first_step)
        return epochs.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    with tf.device("CPU:0"):  # where tf.data works
        passes = tf.Variable(-1, dtype=tf.int64, trainable=False)
    # Dataset.shuffle would depend on TensorFlow's global seed.
    one_pass = tf.data.Dataset.range(1).map(lambda _: passes.assign_add(1)).flat_map(one_epoch)
    one_pass = one_pass.map(lambda rows, epoch: (rows, -tf.ones_like(epoch)))
    return one_pass.apply(tf.data.experimental.assert_cardinality(math.ceil(count / batch_size)))


def row_batches(*order: Any, **options: Any) -> tf.data.Dataset:
    """Batches of example numbers, as :func:`numbered_rows`, without the epoch."""
    return numbered_rows(*order, **options).map(lambda rows, epoch: rows)


def gather(array: tf.Tensor, rows: tf.data.Dataset) -> tf.data.Dataset:
    """Batches of an array's rows, by batches of their numbers."""
    return rows.map(lambda chosen: tf.gather(array, chosen), num_parallel_calls=tf.data.AUTOTUNE)
