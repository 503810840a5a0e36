"""Log magnitude with phase: an exact inverse, no phase search."""

import math

import keras
import tensorflow as tf

from spectrovae.dsp.defaults import window_and_hop
from spectrovae.dsp.stft import db_to_magnitude, istft, power_to_db, stft
from spectrovae.errors import InputError
from spectrovae.representations.base import Representation

PHASES = ("cos_sin", "instantaneous_frequency")


@keras.saving.register_keras_serializable("spectrovae")
class MagnitudePhase(Representation):
    """STFT magnitude in dB with the phase beside it, as (cos, sin) or as instantaneous frequency; inverse by ISTFT.

    Exact where the level lies within the range: what is quieter than ``max_db - dynamic_range`` comes back at that
    level, what is louder than ``max_db`` at that. With ``max_db=6.1``, which no waveform in [-1, 1] exceeds, and
    ``dynamic_range=160`` the error is that of float32.

    The Nyquist bin is real, as the bin of 0 Hz is; it rides as the imaginary part of that bin, so that ``n_fft // 2``
    bins hold all of the spectrum.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_fft: window and transform length in samples, even; by default as for ``LogSTFT``.
        hop_length: samples between frames, at most half of ``n_fft``; by default a quarter.
        phase: ``"cos_sin"``, channels (level, cos, sin), whose decoded pair is brought back to the unit circle; or
            ``"instantaneous_frequency"``, channels (level, f): the phase's advance from the frame before beyond that of
            the bin's centre, wrapped to [-pi, pi) and divided by pi (Engel et al., 2019).
        **kwargs: ``max_db``, ``dynamic_range`` and ``normalisation`` of :class:`Representation`.

    Input shape: (batch, samples). Output shape: (batch, n_fft // 2, 1 + ceil(samples / hop_length), 3), or 2 channels
    under ``"instantaneous_frequency"``: silence fills the last hop, so that windows overlap over every sample.
    """

    keeps_phase = True

    def __init__(
        self,
        sample_rate: int = 8000,
        *,
        n_fft: int | None = None,
        hop_length: int | None = None,
        phase: str = "cos_sin",
        **kwargs,
    ):
        super().__init__(sample_rate, **kwargs)
        if phase not in PHASES:
            raise InputError(f"phase must be one of {', '.join(PHASES)}, received {phase!r}")
        self.n_fft, self.hop_length = window_and_hop(sample_rate, n_fft, hop_length)
        self.phase = phase
        self._full_scale = self.n_fft / 4.0

    def feature_shape(self, samples):
        frames = 1 - (-samples // self.hop_length)
        return (self.n_fft // 2, frames, 3 if self.phase == "cos_sin" else 2)

    def samples_of(self, frames):
        return (frames - 1) * self.hop_length

    def analyse(self, waveform, floor_db):
        missing = -tf.shape(waveform)[1] % self.hop_length
        waveform = tf.pad(waveform, [[0, 0], [0, missing]])
        spectrum = stft(waveform, self.n_fft, self.hop_length) / tf.complex(self._full_scale, 0.0)
        edge = tf.complex(tf.math.real(spectrum[..., :1]), tf.math.real(spectrum[..., -1:]))
        spectrum = tf.transpose(tf.concat([edge, spectrum[..., 1:-1]], axis=-1), [0, 2, 1])
        real, imaginary = tf.math.real(spectrum), tf.math.imag(spectrum)
        power = tf.square(real) + tf.square(imaginary)
        level = power_to_db(power, floor_db)
        if self.phase == "cos_sin":
            scale = tf.math.rsqrt(tf.maximum(power, 1e-30))
            silent = power < 1e-30
            cos = tf.where(silent, 1.0, real * scale)
            return tf.stack([level, cos, tf.where(silent, 0.0, imaginary * scale)], axis=-1)
        # atan2 has no gradient at 0, where the phase means nothing. In float64 both ways: thousands of advances add up,
        # and their rounding would be heard.
        angle = tf.cast(tf.atan2(imaginary, tf.where(power < 1e-30, 1.0, real)), tf.float64)
        advance = angle - tf.pad(angle[:, :, :-1], [[0, 0], [0, 0], [1, 0]]) - self._centre_advance()
        return tf.stack([level, tf.cast(_wrap(advance) / math.pi, tf.float32)], axis=-1)

    def waveform_of(self, db, length=None):
        magnitude = db_to_magnitude(db[..., 0])
        if self.phase == "cos_sin":
            cos, sin = db[..., 1], db[..., 2]
            scale = magnitude * tf.math.rsqrt(tf.maximum(tf.square(cos) + tf.square(sin), 1e-12))
            spectrum = tf.complex(cos * scale, sin * scale)
        else:
            advance = tf.cast(db[..., 1], tf.float64) * math.pi + self._centre_advance()
            angle = tf.cast(_wrap(tf.cumsum(advance, axis=2)), tf.float32)
            spectrum = tf.complex(magnitude * tf.cos(angle), magnitude * tf.sin(angle))
        spectrum = tf.transpose(spectrum, [0, 2, 1]) * tf.complex(self._full_scale, 0.0)
        first, nyquist = tf.math.real(spectrum[..., :1]), tf.math.imag(spectrum[..., :1])
        zeros = tf.zeros_like(first)
        spectrum = tf.concat([tf.complex(first, zeros), spectrum[..., 1:], tf.complex(nyquist, zeros)], axis=-1)
        return istft(spectrum, self.n_fft, self.hop_length, length)

    def skip(self, features, frames):
        kept = features[:, :, frames:]
        if self.phase == "cos_sin" or not frames:
            return kept
        # The first frame's advance is from phase 0: it takes over all that went before.
        advance = tf.reduce_sum(tf.cast(features[:, :, : frames + 1, 1:], tf.float64), axis=2, keepdims=True) * math.pi
        advance = _wrap(advance + frames * self._centre_advance()[..., None]) / math.pi
        first = tf.concat([kept[:, :, :1, :1], tf.cast(advance, tf.float32)], axis=-1)
        return tf.concat([first, kept[:, :, 1:]], axis=2)

    def _centre_advance(self):
        """Phase by which each bin's centre frequency advances in a hop, in radians, float64 [shape=(1, bins, 1)]."""
        turns = tf.range(self.n_fft // 2, dtype=tf.float64) * (self.hop_length / self.n_fft)
        return (2.0 * math.pi * (turns - tf.floor(turns)))[None, :, None]

    def get_config(self):
        return {
            **super().get_config(),
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
            "phase": self.phase,
        }


def _wrap(angle):
    """An angle to [-pi, pi)."""
    return tf.math.floormod(angle + math.pi, 2.0 * math.pi) - math.pi
