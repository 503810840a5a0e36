"""Short-time Fourier transform and its inverse, in TensorFlow, with librosa's conventions.

A periodic Hann window, frames centred by zero padding of ``n_fft // 2`` at both ends, so that ``samples`` samples give
``1 + samples // hop_length`` frames. Spectra are laid out (batch, frames, bins), as the FFT makes them.
"""

import math

import tensorflow as tf

from spectrovae.errors import InputError


def frame_count(samples, hop_length: int):
    """Frames that ``stft`` makes of ``samples`` samples (an int or an integer tensor)."""
    return 1 + samples // hop_length


def hann(n_fft: int) -> tf.Tensor:
    """Periodic Hann window, float32 [shape=(n_fft,)]."""
    return tf.signal.hann_window(n_fft, periodic=True)


def frame(signal: tf.Tensor, n_fft: int, hop_length: int, frames) -> tf.Tensor:
    """Cut (batch, samples) into ``frames`` overlapping frames (batch, frames, n_fft), zeros past the end.

    The signal is cut once into hops; a frame is a run of neighbouring hops. This is several times faster than
    gathering sample by sample.
    """
    hops = math.ceil(n_fft / hop_length)
    wanted = (frames + hops - 1) * hop_length
    samples = tf.shape(signal)[1]
    signal = tf.pad(signal[:, :wanted], [[0, 0], [0, tf.maximum(wanted - samples, 0)]])
    blocks = tf.reshape(signal, [tf.shape(signal)[0], frames + hops - 1, hop_length])
    framed = tf.concat([blocks[:, i : i + frames] for i in range(hops)], axis=-1)
    return framed[..., :n_fft]


def overlap_add(framed: tf.Tensor, hop_length: int) -> tf.Tensor:
    """Sum overlapping frames (batch, frames, n_fft) into a signal (batch, (frames - 1 + ceil(n_fft / hop)) * hop)."""
    n_fft = framed.shape[-1]
    hops = math.ceil(n_fft / hop_length)
    batch, frames = tf.shape(framed)[0], tf.shape(framed)[1]
    framed = tf.pad(framed, [[0, 0], [0, 0], [0, hops * hop_length - n_fft]])
    blocks = tf.reshape(framed, [batch, frames, hops, hop_length])
    total = tf.add_n([tf.pad(blocks[:, :, i], [[0, 0], [i, hops - 1 - i], [0, 0]]) for i in range(hops)])
    return tf.reshape(total, [batch, (frames + hops - 1) * hop_length])


def stft(waveform: tf.Tensor, n_fft: int, hop_length: int) -> tf.Tensor:
    """Short-time Fourier transform.

    Args:
        waveform: float32 [shape=(batch, samples)], any batch and any length.
        n_fft: window and transform length in samples, even.
        hop_length: samples between frames.

    Raises:
        InputError: an odd ``n_fft``: centred frames are counted otherwise then.

    Returns:
        complex64 [shape=(batch, 1 + samples // hop_length, 1 + n_fft // 2)], equal to ``librosa.stft(..., center=True,
        pad_mode="constant")`` transposed.
    """
    if n_fft < 2 or n_fft % 2:
        raise InputError(f"n_fft must be an even number of samples, received {n_fft}")
    frames = frame_count(tf.shape(waveform)[1], hop_length)
    padded = tf.pad(waveform, [[0, 0], [n_fft // 2, 0]])
    return tf.signal.rfft(frame(padded, n_fft, hop_length, frames) * hann(n_fft))


def istft(spectrum: tf.Tensor, n_fft: int, hop_length: int, length=None) -> tf.Tensor:
    """Inverse of :func:`stft`: least-squares overlap-add (Griffin and Lim, 1984).

    Args:
        spectrum: complex64 [shape=(batch, frames, 1 + n_fft // 2)].
        length: samples wanted; by default ``(frames - 1) * hop_length``. Zeros follow where the frames end.

    Returns:
        float32 [shape=(batch, length)].
    """
    frames = tf.shape(spectrum)[1]
    length = (frames - 1) * hop_length if length is None else length
    gain = inverse_window_sum(n_fft, hop_length, frames)
    framed = tf.signal.irfft(spectrum, [n_fft]) * hann(n_fft)
    return uncentre(overlap_add(framed, hop_length) * gain, n_fft, length)


def inverse_window_sum(n_fft: int, hop_length: int, frames) -> tf.Tensor:
    """One over the overlap-added squared window [shape=(1, samples)]; zero where no window reaches."""
    total = overlap_add(tf.tile(tf.square(hann(n_fft))[None, None], [1, frames, 1]), hop_length)
    return tf.math.divide_no_nan(tf.ones_like(total), tf.where(total > 1e-8, total, 0.0))


def uncentre(signal: tf.Tensor, n_fft: int, length) -> tf.Tensor:
    """Take the centring off: (batch, samples) from ``n_fft // 2`` on, cut or zero-padded to ``length``."""
    signal = signal[:, n_fft // 2 :][:, :length]
    return tf.pad(signal, [[0, 0], [0, length - tf.shape(signal)[1]]])


def power_to_db(power: tf.Tensor, min_db: float) -> tf.Tensor:
    """10 log10 of a power, floored at ``min_db`` dB; the gradient is finite on silence."""
    floor = 10.0 ** (min_db / 10.0)
    return (10.0 / math.log(10.0)) * tf.math.log(tf.maximum(power, floor))


def db_to_magnitude(db: tf.Tensor) -> tf.Tensor:
    """Magnitude of a level in dB: 10^(dB / 20)."""
    return tf.exp((math.log(10.0) / 20.0) * db)
