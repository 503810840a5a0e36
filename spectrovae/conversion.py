"""One speaker's sounds in another's voice: what a codec does whose decoder is told who speaks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError
from spectrovae.models import conditioning

if TYPE_CHECKING:
    from spectrovae.codec import Codec

Speaker = str | Sequence[str]
GUIDANCE = 1.05  # at which FSDD's validation clips are right in voice and in digit about as often


def split(decoder):
    """(the decoder without a speaker, the decoder that takes one or None), from either of the two."""
    conditioned = conditioning.whole(decoder)
    if not conditioning.takes_speaker(conditioned):
        return decoder, None
    return conditioning.for_nobody(decoder) if conditioned is decoder else decoder, conditioned


def decoded(codec: Codec, latent, speaker=None, guidance=None):
    """Features of segments: latents (batch * segments, ...) through the decoder.

    A voice is nobody's, and ``guidance`` times what sets it apart: above 1 it is plainer, as classifier-free guidance
    (Ho and Salimans, 2022) makes a condition of a diffusion model, and words suffer.

    Args:
        speaker: int32 (batch,), each for all segments of its sound; None for nobody.
        guidance: float32 (batch,); with a speaker.
    """
    if speaker is None:
        return codec.decoder(latent)
    flat = tf.nest.flatten(latent)
    rows = tf.shape(flat[0])[0]
    segments = rows // tf.maximum(tf.shape(speaker)[0], 1)
    voices = tf.concat([tf.repeat(speaker, segments), tf.fill([rows], len(codec.speakers))], axis=0)
    both = codec.conditioned([*(tf.concat([z, z], axis=0) for z in flat), voices])
    told, nobody = both[:rows], both[rows:]
    weight = tf.reshape(tf.repeat(tf.cast(guidance, both.dtype), segments), [-1, *[1] * (len(both.shape) - 1)])
    return nobody + weight * (told - nobody)


def asked(codec: Codec, speaker: Speaker, guidance: float, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(places of the speakers, weights of their voices), both (count,).

    Raises:
        InputError: see :func:`places`; a guidance that is negative or not finite.
    """
    found = places(codec, speaker, count)
    check_guidance(guidance)
    return found, tf.fill([count], np.float32(guidance))


def check_guidance(guidance: float) -> None:
    """Raise InputError for a weight, of a voice or of what is to be drawn, that is negative or not finite."""
    if not 0.0 <= guidance < math.inf:
        raise InputError(f"guidance must be 0 or more, received {guidance:g}")


def places(codec: Codec, speaker: Speaker, count: int) -> tf.Tensor:
    """Int32 (count,): the places of one name, or of one for each sound, among the codec's speakers.

    Raises:
        InputError: a name that the codec does not know, another number of names, or a codec without speakers.
    """
    check(codec)
    names = names_of(speaker, count)
    if len(names) != count:
        raise InputError(f"speaker must be one name or one for each of {count} sounds, received {len(names)}")
    for name in names:
        if name not in codec.speakers:
            raise InputError(f"speaker must be one of {', '.join(codec.speakers)}, received {name!r}")
    return tf.constant([codec.speakers.index(name) for name in names], tf.int32, [count])


def names_of(names: Speaker | int, count: int) -> list[str]:
    """One name (or a number, which a label may be) for each of ``count`` sounds, of one for all or one for each."""
    if isinstance(names, Iterable) and not isinstance(names, str):
        return list(map(str, names))
    return [str(names)] * count


def check(codec: Codec) -> None:
    """Raise InputError where the decoder is told no speaker."""
    if not codec.speakers:
        raise InputError(
            f"{codec.name} ({codec.family}) knows no speakers, so that it has no other voice to decode in; fit one "
            "that does (spectrovae fit vq-vae --speakers)"
        )
