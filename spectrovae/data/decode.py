"""Decode audio files inside a TensorFlow graph, whichever decoders this installation has.

Three decoders stand behind one interface, tried in this order:

    tensorflow-io   wav, flac, ogg, mp3; its last release works beside TensorFlow 2.16 and 2.17 only
    tf.audio        16-bit wav; part of TensorFlow
    soundfile       everything; called from the graph through ``tf.numpy_function``

All give the same samples, to about 1e-6. ``SPECTROVAE_DECODER=soundfile`` (or another name) forces one.
"""

import functools
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

from spectrovae.errors import InputError

DECODERS = ("tensorflow-io", "tf.audio", "soundfile")
_FORCE = "SPECTROVAE_DECODER"

Decoder = Callable[[tf.Tensor], tf.Tensor]


def available_decoders() -> tuple[str, ...]:
    """Names of the decoders that work here, in the order in which they are tried."""
    return DECODERS if _tensorflow_io() is not None else DECODERS[1:]


def decoder_for(format: str, subtype: str, decoder: str | None = None) -> Decoder:
    """The decoder for one kind of file.

    Args:
        format, subtype: as ``spectrovae.audio.info`` gives them, such as "WAV" and "PCM_16".
        decoder: a name of ``available_decoders()``; by default what ``SPECTROVAE_DECODER`` names, else the
            first that reads this kind.

    Returns:
        A function for graphs: a file's content (a string) to float32 ``(samples, channels)`` in [-1, 1].

    Raises:
        InputError: the named decoder is unknown, absent here, or does not read this kind of file.
    """
    asked = decoder or os.environ.get(_FORCE) or None
    if asked is not None and asked not in available_decoders():
        raise InputError(
            f"decoder {asked!r} is not available here; choose from {', '.join(available_decoders())} "
            f"(argument decoder, or the variable {_FORCE})"
        )
    for name in (asked,) if asked else available_decoders():
        function = _FIND[name](format, subtype)
        if function is not None:
            return function
    raise InputError(f"decoder {asked!r} does not read {format} {subtype}; 'soundfile' reads everything")


@functools.lru_cache(maxsize=1)
def _tensorflow_io() -> Any | None:
    """The module; None where it is absent, or imports but fails in its first operation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_io
        samples = tensorflow_io.audio.decode_wav(_tiny_wav(), dtype=tf.int16)
    except (ImportError, AttributeError, NotImplementedError, RuntimeError, tf.errors.OpError):
        return None
    return tensorflow_io if samples.shape == (2, 1) else None


def _tiny_wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0, 1], np.int16), 8000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _scaled(function: Callable, dtype: tf.DType, scale: float, offset: float = 0.0) -> Decoder:
    # float64 where float32 would round: 24-bit samples in the upper bits of an int32 pass exactly.
    exact = tf.float64 if dtype.size > 2 else tf.float32

    def decode(content):
        samples = tf.cast(function(content, dtype=dtype), exact)
        return tf.cast((samples - offset if offset else samples) * (1.0 / scale), tf.float32)

    return decode


def _find_tensorflow_io(format: str, subtype: str) -> Decoder | None:
    module = _tensorflow_io()
    if module is None:
        return None
    read = module.audio
    # Left out, and so soundfile's: 32-bit integer wav, whose bits it takes for floats, and 8-bit flac.
    return {
        ("WAV", "PCM_U8"): _scaled(read.decode_wav, tf.uint8, 2.0**7, 2.0**7),
        ("WAV", "PCM_16"): _scaled(read.decode_wav, tf.int16, 2.0**15),
        ("WAV", "PCM_24"): _scaled(read.decode_wav, tf.int32, 2.0**31),
        ("WAV", "FLOAT"): lambda content: read.decode_wav(content, dtype=tf.float32),
        ("FLAC", "PCM_16"): _scaled(read.decode_flac, tf.int16, 2.0**15),
        ("FLAC", "PCM_24"): _scaled(read.decode_flac, tf.int32, 2.0**31),
        ("OGG", "VORBIS"): read.decode_vorbis,
        ("MP3", "MPEG_LAYER_III"): read.decode_mp3,
    }.get((format, subtype))


def _find_tf_audio(format: str, subtype: str) -> Decoder | None:
    if (format, subtype) != ("WAV", "PCM_16"):
        return None
    return lambda content: tf.audio.decode_wav(content).audio


def _find_soundfile(format: str, subtype: str) -> Decoder:
    def read(content) -> np.ndarray:
        content = np.asarray(content, object).item()  # bytes in a graph, an array outside
        return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]

    def decode(content):
        samples = tf.numpy_function(read, [content], tf.float32, stateful=False)
        return tf.ensure_shape(samples, (None, None))

    return decode


_FIND: dict[str, Callable[[str, str], Decoder | None]] = {
    "tensorflow-io": _find_tensorflow_io,
    "tf.audio": _find_tf_audio,
    "soundfile": _find_soundfile,
}
