"""One speaker's sounds in another's voice: what a codec does whose decoder is told who speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError
from spectrovae.models import conditioning

if TYPE_CHECKING:
    from spectrovae.codec import Codec

Speaker = str | Sequence[str]


def split(decoder):
    """(the decoder as those use it who know of no speaker, the decoder that is told or None)."""
    return (conditioning.for_nobody(decoder), decoder) if conditioning.takes_speaker(decoder) else (decoder, None)


def decoded(codec: Codec, latent, speaker):
    """Features of segments: latents (batch * segments, ...) through the decoder.

    Args:
        speaker: int32 (batch,), each for all segments of its sound; None for nobody.
    """
    if speaker is None:
        return codec.decoder(latent)
    flat = tf.nest.flatten(latent)
    segments = tf.shape(flat[0])[0] // tf.maximum(tf.shape(speaker)[0], 1)
    return codec.conditioned([*flat, tf.repeat(speaker, segments)])


def convert(codec: Codec, waveform, speaker: Speaker, sample_rate: int | None = None) -> np.ndarray:
    """What :meth:`Codec.convert` does."""
    check(codec)
    checked = codec.checked(waveform, sample_rate)
    return codec.convert_function(checked, places(codec, speaker, int(checked.shape[0]))).numpy()


def places(codec: Codec, speaker: Speaker, count: int) -> tf.Tensor:
    """Int32 (count,): the places of one name, or of one for each sound, among the codec's speakers.

    Raises:
        InputError: a name that the codec does not know, another number of names, or a codec without speakers.
    """
    check(codec)
    names = [speaker] * count if isinstance(speaker, str) else list(map(str, speaker))
    if len(names) != count:
        raise InputError(f"speaker must be one name or one for each of {count} sounds, received {len(names)}")
    for name in names:
        if name not in codec.speakers:
            raise InputError(f"speaker must be one of {', '.join(codec.speakers)}, received {name!r}")
    return tf.constant([codec.speakers.index(name) for name in names], tf.int32, [count])


def check(codec: Codec) -> None:
    """Raise InputError where the decoder is told no speaker."""
    if not codec.speakers:
        raise InputError(
            f"{codec.name} ({codec.family}) knows no speakers, so that it has no other voice to decode in; fit one "
            "that does (spectrovae fit vq-vae --speakers)"
        )
