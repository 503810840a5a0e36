"""Modified discrete cosine transform and its inverse, in TensorFlow, and the companding of its signed coefficients.

Frames of ``frame_length`` samples overlap by half and start half a frame before the first sample, so that ``samples``
samples give ``ceil(samples / (frame_length / 2)) + 1`` frames of ``frame_length / 2`` coefficients, laid out
(batch, frames, bins). The transform is orthonormal: coefficients have the energy of the waveform, and the inverse is
the transpose.

A frame's coefficients are the DCT-IV of its two windowed halves, each folded at its middle (Princen and Bradley, 1986).
A hop of ``frame_length / 2`` samples is the second half of one frame and the first half of the next, and what both make
of it is a rotation of every sample pair mirrored at the hop's middle. Rotating hops therefore replaces framing,
windowing and overlap-add, and the inverse turns them back.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from spectrovae.dsp.stft import db_to_magnitude, power_to_db
from spectrovae.errors import InputError

WINDOWS = ("vorbis", "sine", "kbd")


def mdct_frame_count(samples, frame_length: int):
    """Frames that ``mdct`` makes of ``samples`` samples (an int or an integer tensor)."""
    return -(-samples // (frame_length // 2)) + 1


@functools.lru_cache
def mdct_window(window: str, frame_length: int) -> np.ndarray:
    """A symmetric window whose halves satisfy w[n]^2 + w[n + frame_length / 2]^2 = 1 (Princen and Bradley, 1986).

    Args:
        window: ``"sine"``; ``"vorbis"``, the power-complementary window of Vorbis I; or ``"kbd"``, the
            Kaiser-Bessel-derived window with alpha 4, as in AAC.
        frame_length: its length in samples, a multiple of 4.

    Returns:
        float64 [shape=(frame_length,)], read-only.

    Raises:
        InputError: if the window is unknown or the length is not a positive multiple of 4.
    """
    if frame_length < 4 or frame_length % 4:
        raise InputError(f"frame_length must be a multiple of 4, received {frame_length}")
    sine = np.sin(np.pi / frame_length * (np.arange(frame_length) + 0.5))
    if window == "sine":
        found = sine
    elif window == "vorbis":
        found = np.sin(np.pi / 2 * sine**2)
    elif window == "kbd":
        total = np.cumsum(np.kaiser(frame_length // 2 + 1, 4 * np.pi))
        half = np.sqrt(total[:-1] / total[-1])
        found = np.concatenate([half, half[::-1]])
    else:
        raise InputError(f"window must be one of {', '.join(WINDOWS)}, received {window!r}")
    found.flags.writeable = False
    return found


def mdct(waveform: tf.Tensor, frame_length: int, window: str = "vorbis") -> tf.Tensor:
    """Modified discrete cosine transform.

    Args:
        waveform: float32 or float64 [shape=(batch, samples)], any batch and any length.
        frame_length: window length in samples, a multiple of 4; frames are half as far apart.
        window: one of ``WINDOWS``, see :func:`mdct_window`.

    Returns:
        The waveform's type [shape=(batch, ceil(samples / (frame_length / 2)) + 1, frame_length // 2)], equal to
        ``tf.signal.mdct(..., norm="ortho")`` of the waveform behind ``frame_length // 2`` zeros.

    Raises:
        InputError: if the waveform is not floating point, or the frame length or the window is not one of the above.
    """
    waveform = _real(waveform)
    hop = frame_length // 2
    cos, sin = _rotation(window, frame_length, waveform.dtype)
    batch, samples = tf.shape(waveform)[0], tf.shape(waveform)[1]
    hops = mdct_frame_count(samples, frame_length) - 1
    padded = tf.pad(waveform, [[0, 0], [0, hops * hop - samples]])
    left, right = tf.split(tf.reshape(padded, [batch, hops, hop]), 2, axis=-1)
    right = tf.reverse(right, [-1])
    as_first_half = cos * left - sin * right
    as_second_half = tf.reverse(-sin * left - cos * right, [-1])
    folded = [tf.pad(as_second_half, [[0, 0], [0, 1], [0, 0]]), tf.pad(as_first_half, [[0, 0], [1, 0], [0, 0]])]
    return dct4(tf.concat(folded, axis=-1))


def imdct(coefficients: tf.Tensor, frame_length: int, window: str = "vorbis", length=None) -> tf.Tensor:
    """Inverse of :func:`mdct`, exact to rounding; on coefficients that no waveform has, the nearest waveform.

    Args:
        coefficients: float32 or float64 [shape=(batch, frames, frame_length // 2)].
        frame_length: as given to :func:`mdct`.
        window: as given to :func:`mdct`.
        length: samples wanted; by default ``(frames - 1) * frame_length // 2``. Zeros follow where the frames end.

    Returns:
        The coefficients' type [shape=(batch, length)].

    Raises:
        InputError: if the coefficients are not floating point, their number a frame is not ``frame_length // 2``, or
            the frame length or the window is not one that :func:`mdct` takes.
    """
    coefficients = _real(coefficients)
    hop = frame_length // 2
    cos, sin = _rotation(window, frame_length, coefficients.dtype)
    if coefficients.shape[-1] != hop:
        raise InputError(
            f"frame_length={frame_length} has {hop} coefficients a frame, received {coefficients.shape[-1]}"
        )
    as_second_half, as_first_half = tf.split(dct4(coefficients), 2, axis=-1)
    as_second_half = tf.reverse(as_second_half[:, :-1], [-1])
    as_first_half = as_first_half[:, 1:]
    left = cos * as_first_half - sin * as_second_half
    right = tf.reverse(-sin * as_first_half - cos * as_second_half, [-1])
    hops = tf.concat([left, right], axis=-1)
    natural = tf.shape(hops)[1] * hop
    waveform = tf.reshape(hops, [tf.shape(hops)[0], natural])
    length = natural if length is None else length
    return tf.pad(waveform[:, :length], [[0, 0], [0, tf.maximum(length - natural, 0)]])


def dct4(signal: tf.Tensor) -> tf.Tensor:
    """Orthonormal discrete cosine transform of type IV over the last axis; its own inverse.

    By one complex FFT of half the length between two twiddles. Even and odd samples are separated by a transposition
    because strided slices are slower than the FFT itself.

    Args:
        signal: float32 or float64 [shape=(..., n)], n even and static.

    Returns:
        The same shape and type.
    """
    n = signal.shape[-1]
    twiddle = np.exp(-1j * np.pi / n * (np.arange(n // 2) + 0.125)) * (2 / n) ** 0.25
    twiddle = tf.constant(twiddle, tf.complex64 if signal.dtype == tf.float32 else tf.complex128)
    shape = tf.shape(signal)
    pairs = tf.reshape(signal, tf.concat([shape[:-1], [n // 2, 2]], axis=0))
    even, odd = tf.unstack(tf.linalg.matrix_transpose(pairs), axis=-2)
    spectrum = tf.signal.fft(tf.complex(even, tf.reverse(odd, [-1])) * twiddle) * twiddle
    odd = tf.reverse(-tf.math.imag(spectrum), [-1])
    pairs = tf.stack([tf.math.real(spectrum), odd], axis=-2)
    return tf.reshape(tf.linalg.matrix_transpose(pairs), shape)


def asinh_compress(coefficients: tf.Tensor, scale: float) -> tf.Tensor:
    """asinh(c / scale): linear below ``scale``, logarithmic above it, odd and smooth.

    Args:
        coefficients: signed, any shape.
        scale: positive, in the coefficients' unit; about the median of their absolute values is a good choice.

    Returns:
        The same shape; ``scale * 10^(dB / 20)`` comes out as about ``0.69 + 0.115 dB``.

    Raises:
        InputError: if ``scale`` is not positive.
    """
    return tf.math.asinh(coefficients / _positive("scale", scale))


def asinh_expand(compressed: tf.Tensor, scale: float) -> tf.Tensor:
    """Inverse of :func:`asinh_compress`."""
    return _positive("scale", scale) * tf.math.sinh(compressed)


def mu_law_compress(coefficients: tf.Tensor, mu: float = 255.0) -> tf.Tensor:
    """Mu-law (ITU-T G.711, without its quantisation): sign(c) log(1 + mu |c|) / log(1 + mu).

    Args:
        coefficients: signed, any shape; [-1, 1] is mapped to [-1, 1], and what lies outside is not clipped.
        mu: positive; how strongly small values are raised.

    Returns:
        The same shape.

    Raises:
        InputError: if ``mu`` is not positive.
    """
    mu = _positive("mu", mu)
    sign = _sign(coefficients)
    return sign * tf.math.log1p(mu * sign * coefficients) / math.log1p(mu)


def mu_law_expand(compressed: tf.Tensor, mu: float = 255.0) -> tf.Tensor:
    """Inverse of :func:`mu_law_compress`."""
    mu = _positive("mu", mu)
    sign = _sign(compressed)
    return sign * tf.math.expm1(math.log1p(mu) * sign * compressed) / mu


def sign_log(coefficients: tf.Tensor, floor_db: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Sign and level.

    Args:
        coefficients: signed, any shape.
        floor_db: the lowest level, in dB relative to a coefficient of 1.

    Returns:
        The sign, -1, 0 or 1 (0 where the level is at the floor), and the level 20 log10 |c| in dB, not below
        ``floor_db``; both of the coefficients' shape. The level's gradient is zero at the floor, the sign's everywhere.
    """
    audible = tf.abs(coefficients) > 10.0 ** (floor_db / 20.0)
    level = power_to_db(tf.square(coefficients), floor_db)
    return tf.where(audible, tf.sign(coefficients), tf.zeros_like(coefficients)), level


def sign_log_expand(sign: tf.Tensor, level_db: tf.Tensor) -> tf.Tensor:
    """Inverse of :func:`sign_log`: exact above its floor, zero at it."""
    return sign * db_to_magnitude(level_db)


def _rotation(window: str, frame_length: int, dtype) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosines and sines of the rotations: the window over a frame's first quarter, and mirrored over its second."""
    quarters = np.split(mdct_window(window, frame_length), 4)
    return tf.constant(quarters[0], dtype), tf.constant(quarters[1][::-1], dtype)


def _real(values) -> tf.Tensor:
    values = tf.convert_to_tensor(values)
    if values.dtype not in (tf.float32, tf.float64):
        raise InputError(f"the MDCT takes float32 or float64, received {values.dtype.name}: cast it first")
    return values


def _positive(name: str, value: float) -> float:
    if not value > 0.0:
        raise InputError(f"{name} must be positive, received {value}")
    return value


def _sign(values: tf.Tensor) -> tf.Tensor:
    """-1 or 1, and 1 at 0, where ``tf.sign`` and ``tf.abs`` would make the gradient of the companding zero."""
    return tf.where(values < 0.0, -tf.ones_like(values), tf.ones_like(values))
