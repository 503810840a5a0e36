"""One frame of a steady sound: for models of spectra rather than of spectrograms."""

import math

import keras
import numpy as np
import tensorflow as tf

from spectrovae.dsp.mdct import imdct, mdct, mdct_window, sign_log, sign_log_expand
from spectrovae.dsp.stft import db_to_magnitude, hann, istft, power_to_db
from spectrovae.errors import InputError
from spectrovae.representations.base import EXTREME, Representation, split_level

CONTENTS = ("magnitude", "magnitude_phase", "mdct")


@keras.saving.register_keras_serializable("spectrovae")
class Spectrum(Representation):
    """The spectrum of the middle ``n_fft`` samples, in dB or linear; the inverse repeats the frame.

    What a sound does over time is not kept: this is for steady sounds, such as the toy sets. Shorter ones are padded
    with silence on both sides. :meth:`oscillators` is another way back, at any fundamental.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_fft: samples of the frame, a multiple of 4; 2048 gives 1 025 bins.
        content: ``"magnitude"``, ``1 + n_fft // 2`` bins of a Hann-windowed frame; ``"magnitude_phase"``, the same with
            the phases divided by pi below them, one vector of twice the length; ``"mdct"``, the ``n_fft // 2`` signed
            coefficients of a sine-windowed frame, in dB with the sign as a second channel.
        scale: ``"db"``; or ``"linear"``, relative to a full-scale sine: the normalisation ``"range"`` divides by the
            magnitude of ``max_db`` (0 dB: nothing), ``"per_example"`` by the frame's largest, ``"per_bin"``
            standardises.
        seed: of the phases that the inverse of ``"magnitude"`` gives the bins.
        **kwargs: ``max_db``, ``dynamic_range`` and ``normalisation`` of :class:`Representation`.

    Input shape: (batch, samples). Output shape: (batch, bins, 1, 1), or 2 channels for ``"mdct"`` in dB.
    """

    def __init__(
        self,
        sample_rate: int = 8000,
        *,
        n_fft: int = 2048,
        content: str = "magnitude",
        scale: str = "db",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(sample_rate, **kwargs)
        if content not in CONTENTS:
            raise InputError(f"content must be one of {', '.join(CONTENTS)}, received {content!r}")
        if scale not in ("db", "linear"):
            raise InputError(f"scale must be db or linear, received {scale!r}")
        mdct_window("sine", n_fft)  # refuses what is no multiple of 4
        self.n_fft, self.content, self.scale, self.seed = n_fft, content, scale, seed
        self._full_scale = math.sqrt(n_fft) / 2.0 if content == "mdct" else n_fft / 4.0

    @property
    def bins(self):
        return self.n_fft // 2 + (self.content != "mdct")

    @property
    def frequencies(self):
        return (np.arange(self.bins) + 0.5 * (self.content == "mdct")) * self.sample_rate / self.n_fft

    def feature_shape(self, samples):
        rows = self.bins * (2 if self.content == "magnitude_phase" else 1)
        return (rows, 1, 2 if self.content == "mdct" and self.scale == "db" else 1)

    def samples_of(self, frames):
        return frames * self.n_fft

    def analyse(self, waveform, floor_db):
        frame = self._middle(waveform)
        if self.content == "mdct":
            # The frame before and the one after are cut in the middle; the second covers all samples.
            coefficients = mdct(frame, self.n_fft, "sine")[:, 1] / self._full_scale
            sign, level = sign_log(coefficients, floor_db)
            return tf.stack([level, sign], axis=-1)[:, :, None]
        spectrum = tf.signal.rfft(frame * hann(self.n_fft)) / tf.complex(self._full_scale, 0.0)
        real, imaginary = tf.math.real(spectrum), tf.math.imag(spectrum)
        power = tf.square(real) + tf.square(imaginary)
        channels = [power_to_db(power, floor_db)]
        if self.content == "magnitude_phase":
            # atan2 has no gradient at 0, where the phase means nothing.
            channels.append(tf.atan2(imaginary, tf.where(power < 1e-30, 1.0, real)) / math.pi)
        return tf.stack(channels, axis=-1)[:, :, None]

    def waveform_of(self, db, length=None):
        length = self.n_fft if length is None else length
        level, carried = split_level(db[:, :, 0])
        if self.content == "mdct":
            sign = tf.clip_by_value(carried, -1.0, 1.0)
            coefficients = sign_log_expand(sign, level)[..., 0] * self._full_scale
            frames = -(-length // (self.n_fft // 2)) + 1
            return imdct(tf.repeat(coefficients[:, None], frames, axis=1), self.n_fft, "sine", length)
        if self.content == "magnitude_phase":
            phase = carried[..., 0] * math.pi
        else:
            phase = tf.random.stateless_uniform([1, self.bins], [self.seed, 0], -math.pi, math.pi, alg="philox")
        # Each bin goes on as the sinusoid at its centre, through frames a quarter apart. A tone thus becomes the three
        # bins of its main lobe, which hold two thirds of its power.
        hop = self.n_fft // 4
        frames = -(-length // hop) + 1
        turns = tf.range(self.bins)[None, :] * tf.range(frames)[:, None] % 4
        angle = phase[:, None] + (math.pi / 2.0) * tf.cast(turns, tf.float32)[None]
        magnitude = db_to_magnitude(level[..., 0])[:, None] * (self._full_scale * math.sqrt(1.5))
        spectrum = tf.complex(magnitude * tf.cos(angle), magnitude * tf.sin(angle))
        return istft(spectrum, self.n_fft, hop, length)

    def oscillators(self, features, fundamental: float, length: int):
        """Sound of a bank of sines at the multiples of ``fundamental``, as loud as the spectrum is there.

        Args:
            features: (batch, bins, 1, channels) of a magnitude content.
            fundamental: Hz; multiples up to half the sample rate sound.
            length: samples.

        Returns:
            float32 [shape=(batch, length)].

        Raises:
            InputError: MDCT coefficients, whose size depends on phase, or a fundamental out of range.
        """
        if self.content == "mdct":
            raise InputError("oscillators need magnitudes, and MDCT coefficients are none; use content='magnitude'")
        if not 0.0 < fundamental < self.sample_rate / 2.0:
            raise InputError(
                f"fundamental must lie between 0 and {self.sample_rate / 2:g} Hz, received {fundamental!r}"
            )
        partials = np.arange(1, math.ceil(self.sample_rate / 2.0 / fundamental)) * fundamental
        rows = np.round(partials * self.n_fft / self.sample_rate).astype(int)
        magnitude = db_to_magnitude(self.to_db(features)[:, :, 0, 0])
        # Between two bins a sine reads up to 1.4 dB less in each; the larger of three is near enough.
        near = [tf.gather(magnitude, np.clip(rows + step, 0, self.bins - 1), axis=1) for step in (-1, 0, 1)]
        amplitude = tf.maximum(tf.maximum(near[0], near[1]), near[2])
        time = np.arange(length) / self.sample_rate
        return tf.matmul(amplitude, tf.constant(np.sin(2.0 * np.pi * np.outer(partials, time)), tf.float32))

    @property
    def db_per_unit(self):
        """One for each row; 0 for phases. None of linear magnitudes and under ``per_example``."""
        slope = None if self.scale == "linear" else super().db_per_unit
        if slope is None:
            return None
        levels = list(slope) if isinstance(slope, list) else [slope] * self.bins
        return levels + [0.0] * (self.bins if self.content == "magnitude_phase" else 0)

    def from_db(self, db, statistics=None):
        """(batch, bins, 1, channels) of level and what is carried -> features."""
        db = tf.cast(db, tf.float32)
        if self.scale == "linear":
            level, carried = split_level(db)
            values = self.normalised(self._amplitude(level, carried), level, statistics)
            db = tf.concat([values, *self._kept(carried)], axis=-1)
        else:
            db = super().from_db(db, statistics)
        return tf.concat(tf.split(db, 2, axis=-1), axis=1) if self.content == "magnitude_phase" else db

    def to_db(self, features, statistics=None):
        """Features -> (batch, bins, 1, channels) of level and what is carried; levels end at ``min_db``."""
        features = tf.cast(features, tf.float32)
        if self.content == "magnitude_phase":
            features = tf.concat(tf.split(features, 2, axis=1), axis=-1)
        if self.scale == "db":
            return super().to_db(features, statistics)
        values, carried = split_level(features)
        top = self.value_of(EXTREME)
        amplitude = tf.clip_by_value(self.denormalised(values, statistics), -top, top)
        sign, level = sign_log(amplitude, self.min_db)
        return tf.concat([level, sign if self.content == "mdct" else carried], axis=-1)

    def _amplitude(self, level, carried):
        return sign_log_expand(carried, level) if self.content == "mdct" else db_to_magnitude(level)

    def _kept(self, carried):
        return [carried] if self.content == "magnitude_phase" else []

    @property
    def from_zero(self):  # type: ignore[override]
        return self.scale == "linear"

    def value_of(self, db):
        return db_to_magnitude(db) if self.scale == "linear" else db

    def values(self, waveform):
        level, carried = split_level(self.decibels(waveform))
        return level if self.scale == "db" else self._amplitude(level, carried)

    def _middle(self, waveform):
        missing = tf.maximum(self.n_fft - tf.shape(waveform)[1], 0)
        waveform = tf.pad(waveform, [[0, 0], [missing // 2, missing - missing // 2]])
        start = (tf.shape(waveform)[1] - self.n_fft) // 2
        return tf.ensure_shape(waveform[:, start : start + self.n_fft], [None, self.n_fft])

    def get_config(self):
        names = ("n_fft", "content", "scale", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
