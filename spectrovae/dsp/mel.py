"""Mel spectra and back: librosa's filters, and a non-negative inverse.

Magnitudes and mel spectra are laid out (batch, frames, bins or mels), as :func:`spectrovae.dsp.stft.stft` makes them.
"""

import numpy as np
import tensorflow as tf

from spectrovae.errors import InputError

# Slaney's scale: linear up to 1 kHz, logarithmic above.
_HERTZ_PER_MEL = 200.0 / 3.0
_KNEE_HERTZ = 1000.0
_KNEE_MEL = _KNEE_HERTZ / _HERTZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0

_START = 0.2  # of a frame's loudest bin: the least a bin starts from in the inverse; from 0.001 it ends 0.7 dB worse


def hertz_to_mel(hertz, htk: bool = False):
    """Frequency in Hz to mels, on Slaney's scale or HTK's."""
    hertz = np.asarray(hertz, np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    above = _KNEE_MEL + np.log(np.maximum(hertz, _KNEE_HERTZ) / _KNEE_HERTZ) / _LOG_STEP
    return np.where(hertz < _KNEE_HERTZ, hertz / _HERTZ_PER_MEL, above)


def mel_to_hertz(mel, htk: bool = False):
    """Inverse of :func:`hertz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = _KNEE_HERTZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _HERTZ_PER_MEL, above)


def mel_filterbank(
    sample_rate: float,
    n_fft: int,
    n_mels: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    htk: bool = False,
    norm: str | None = "slaney",
    *,
    allow_empty: bool = False,
) -> np.ndarray:
    """Triangular filters, evenly spaced in mels, equal to ``librosa.filters.mel``.

    Args:
        sample_rate: Hz.
        n_fft: transform length in samples.
        n_mels: filters.
        f_min: Hz, the lower end of the first filter.
        f_max: Hz, the upper end of the last filter; by default half the sample rate.
        htk: HTK's mel scale instead of Slaney's.
        norm: ``"slaney"`` gives every filter the same area; None gives peaks of 1.
        allow_empty: a filter so narrow that it holds no bin is always 0: a constant for a model to learn and a hole
            for the inverse. It is an error, unless this is True.

    Returns:
        float32 [shape=(n_mels, 1 + n_fft // 2)].

    Raises:
        InputError: frequencies out of order, an unknown norm, no filters, or empty ones.
    """
    f_max = sample_rate / 2.0 if f_max is None else f_max
    if not 0.0 <= f_min < f_max <= sample_rate / 2.0:
        raise InputError(
            f"mel filters need 0 <= f_min < f_max <= {sample_rate / 2.0:g} Hz, half the sample rate; "
            f"received f_min={f_min:g}, f_max={f_max:g}"
        )
    if norm not in ("slaney", None):
        raise InputError(f'norm must be "slaney" or None, received {norm!r}')
    if n_mels < 1:
        raise InputError(f"n_mels must be at least 1, received {n_mels}")
    bins = np.arange(1 + n_fft // 2) * (sample_rate / n_fft)
    edges = mel_to_hertz(np.linspace(hertz_to_mel(f_min, htk), hertz_to_mel(f_max, htk), n_mels + 2), htk)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.maximum(0.0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    empty = int(np.sum(np.all(filters == 0.0, axis=1)))
    if empty and not allow_empty:
        raise InputError(
            f"{empty} of {n_mels} mel filters are narrower than the {sample_rate / n_fft:g} Hz between bins and would "
            f"be empty; use a longer n_fft than {n_fft} or fewer mels"
        )
    if norm == "slaney":
        filters = filters * (2.0 / (upper - lower))
    return filters.astype(np.float32)


def mel_spectrogram(magnitude: tf.Tensor, filterbank: np.ndarray, power: float = 2.0) -> tf.Tensor:
    """Mel spectrum of STFT magnitudes: each filter's sum of ``magnitude ** power``.

    Args:
        magnitude: float32 [shape=(batch, frames, bins)].
        filterbank: of :func:`mel_filterbank` [shape=(n_mels, bins)].
        power: 1 for magnitudes, 2 for power.

    Returns:
        float32 [shape=(batch, frames, n_mels)], equal to ``librosa.feature.melspectrogram`` transposed.

    Raises:
        InputError: the filters are not for that many bins.
    """
    if magnitude.shape[-1] != filterbank.shape[1]:
        raise InputError(f"the mel filters take {filterbank.shape[1]} bins, received {magnitude.shape[-1]}")
    return tf.matmul(_power(magnitude, power), tf.constant(filterbank), transpose_b=True)


def invert_mel(mel: tf.Tensor, filterbank: np.ndarray, *, iterations: int = 100, power: float = 2.0) -> tf.Tensor:
    """STFT magnitudes whose mel spectrum is near the one given, by non-negative least squares.

    Multiplicative updates (Lee and Seung, 2001) from the pseudo-inverse, clipped: they keep close to that smooth start,
    where an exact solution would be a few spikes.

    Args:
        mel: float32 [shape=(batch, frames, n_mels)], linear, not in dB; negative values count as 0.
        filterbank: of :func:`mel_filterbank` [shape=(n_mels, bins)].
        iterations: 0 gives the clipped pseudo-inverse.
        power: that ``mel`` was made with.

    Returns:
        float32 [shape=(batch, frames, bins)], not negative; 0 where no filter reaches.

    Raises:
        InputError: the filters are not for that many mels.
    """
    if mel.shape[-1] != filterbank.shape[0]:
        raise InputError(f"there are {filterbank.shape[0]} mel filters, received {mel.shape[-1]} mels")
    filters = tf.constant(filterbank)
    inverse = tf.constant(np.linalg.pinv(filterbank.astype(np.float64)).T.astype(np.float32))
    mel = tf.maximum(mel, 0.0)
    # Each frame by itself at a loudness of 1, so that the result scales with its input.
    loudness = tf.reduce_max(mel, -1, keepdims=True)
    mel = tf.math.divide_no_nan(mel, loudness)
    start = tf.matmul(mel, inverse)
    # A bin at 0 would stay there.
    start = tf.maximum(start, _START * tf.reduce_max(start, -1, keepdims=True) if iterations else 0.0)
    wanted = tf.matmul(mel, filters)

    def update(index, spectrum):
        made = tf.matmul(tf.matmul(spectrum, filters, transpose_b=True), filters)
        return index + 1, spectrum * tf.math.divide_no_nan(wanted, made)

    _, spectrum = tf.while_loop(lambda index, _: index < iterations, update, (0, start), maximum_iterations=iterations)
    return _power(spectrum * loudness, 1.0 / power)


def _power(x, exponent):
    if exponent == 1.0:
        return x
    return tf.sqrt(x) if exponent == 0.5 else tf.square(x) if exponent == 2.0 else tf.pow(x, exponent)
