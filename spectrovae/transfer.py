"""Timbre transfer: any sound through a model, its latent moved on the way, in memory that no length makes grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from spectrovae import overlap
from spectrovae.errors import InputError
from spectrovae.representations import blocks

if TYPE_CHECKING:
    from spectrovae.codec import Codec

SEGMENTS = 4  # decoded at a time


def transfer(
    codec: Codec,
    pieces: Iterable[np.ndarray],
    length: int,
    *,
    scale: Mapping[int, float] | None = None,
    bias: Mapping[int, float] | None = None,
) -> Iterator[np.ndarray]:
    """A waveform's pieces (samples,) at the codec's rate -> pieces of the result, ``length`` samples in all.

    Segments are decoded a few at a time. A codec without seams sees a whole segment of its neighbours on either side,
    which is more than its convolutions reach, so that the result is that of the whole file.

    Args:
        scale, bias: what dimensions of the latent, counted from 0, are multiplied by, and what is then added, in the
            latent's own units (standard deviations of its prior).

    Raises:
        InputError: latents that are codes or several tensors, a dimension that is not there, or a normalisation that
            needs the extremes of the whole file.
    """
    factors, offsets = moves(codec, scale or {}, bias or {})
    frames = codec.segment_frames
    step, sides = SEGMENTS * frames, frames if codec.whole else 0
    features = blocks.forward(codec.representation, _ending_in_silence(codec, pieces), block_frames=step)
    bins, _, channels = codec.feature_shape

    @tf.function(input_signature=[tf.TensorSpec([1, bins, None, channels], tf.float32)], autograph=False)
    def moved(features):
        return codec.through_graph(features, move=(lambda z: z * factors + offsets) if len(factors) else None)

    def decoded() -> Iterator[np.ndarray]:
        for window, offset, last in overlap.windows(features, step, sides, sides):
            yield moved(window[None]).numpy()[0, :, offset : None if last else offset + step]

    return blocks.inverse(codec.representation, decoded(), length)


def moves(codec: Codec, scale: Mapping[int, float], bias: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """What each dimension is multiplied by and what is added [shape=(dimensions,) each].

    Raises:
        InputError: as for :func:`transfer`.
    """
    if len(codec.latent_shapes) > 1 or codec.latent_types[0].is_integer:
        if scale or bias:
            raise InputError(
                f"{codec.name} ({codec.family}) has no latent of one tensor of numbers, whose dimensions could be "
                "scaled or moved; leave out scale and bias"
            )
        return np.ones(0, np.float32), np.zeros(0, np.float32)
    dimensions = codec.latent_shapes[0][-1]
    found = np.ones(dimensions, np.float32), np.zeros(dimensions, np.float32)
    for name, values, given in (("scale", found[0], scale), ("bias", found[1], bias)):
        for dimension, value in given.items():
            if not 0 <= dimension < dimensions:
                raise InputError(f"{codec.name} has dimensions 0 to {dimensions - 1}, received {name} of {dimension}")
            values[dimension] = value
    return found


def _ending_in_silence(codec: Codec, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The pieces, and silence until the last segment is full."""
    samples = 0
    for piece in pieces:
        samples += len(piece)
        yield codec.checked_sound(piece, "a piece")
    frames = codec.representation.feature_shape(samples)[1]
    segments = -(-frames // codec.segment_frames)
    missing = codec.representation.samples_of(segments * codec.segment_frames) - samples
    if missing > 0:
        yield np.zeros(missing, np.float32)
