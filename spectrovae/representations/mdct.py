"""Modified discrete cosine transform: real, critically sampled, exactly invertible."""

import math

import keras
import tensorflow as tf

from spectrovae.dsp import mdct as dsp
from spectrovae.dsp.defaults import default_window
from spectrovae.dsp.stft import db_to_magnitude
from spectrovae.errors import InputError
from spectrovae.representations.base import EXTREME, Representation, check_waveform, split_level

COMPANDINGS = ("asinh", "mu_law", "linear", "sign_log")


@keras.saving.register_keras_serializable("spectrovae")
class MDCT(Representation):
    """Companded MDCT coefficients; the inverse needs no phase and is exact.

    Coefficients are signed and heavy-tailed: on speech their kurtosis is above 100, and models of linear coefficients
    learn silence. Companding makes them nearly Gaussian. Levels are relative to the coefficient that a full-scale sine
    has on average, ``sqrt(frame_length) / 2``.

    Args:
        sample_rate: of the waveforms, in Hz.
        frame_length: window length in samples, a multiple of 4; by default the one whose hop is that of ``LogSTFT``:
            256 at 8 kHz, 1024 at 44.1 kHz.
        window: ``"vorbis"``, ``"sine"`` or ``"kbd"``.
        companding: ``"asinh"`` (linear below ``scale``, logarithmic above), ``"mu_law"``, ``"linear"``, each one
            channel in about [-1, 1]; or ``"sign_log"``, channels (level in dB, normalised; sign), exact above the
            floor only.
        scale: of asinh: the coefficient at which it turns logarithmic, relative to full scale.
        mu: of mu-law.
        **kwargs: ``max_db``, ``dynamic_range`` and ``normalisation`` of :class:`Representation`. For the signed
            compandings ``max_db`` sets the coefficient that becomes 1, nothing is clipped, and ``"per_bin"`` and
            ``"per_example"`` divide, by the standard deviation about 0 and by the largest absolute value, at least the
            floor's, without moving 0.

    Input shape: (batch, samples). Output shape: (batch, frame_length // 2, frames, 1), or 2 channels under
    ``"sign_log"``; frames = ceil(samples / (frame_length / 2)) + 1.
    """

    keeps_phase = True

    def __init__(
        self,
        sample_rate: int = 8000,
        *,
        frame_length: int | None = None,
        window: str = "vorbis",
        companding: str = "asinh",
        scale: float = 1e-3,
        mu: float = 255.0,
        **kwargs,
    ):
        super().__init__(sample_rate, **kwargs)
        if companding not in COMPANDINGS:
            raise InputError(f"companding must be one of {', '.join(COMPANDINGS)}, received {companding!r}")
        self.frame_length = default_window(sample_rate) // 2 if frame_length is None else frame_length
        self.hop_length = self.frame_length // 2
        dsp.mdct_window(window, self.frame_length)  # refuses what is wrong
        if not (scale > 0 and mu > 0):
            raise InputError(f"scale and mu must be positive, received {scale!r} and {mu!r}")
        self.window, self.companding, self.scale, self.mu = window, companding, float(scale), float(mu)
        self._full_scale = math.sqrt(self.frame_length) / 2.0

    @property
    def context(self):
        return 1

    @property
    def from_zero(self):  # type: ignore[override]
        return self.signed

    @property
    def about_zero(self):  # type: ignore[override]
        return self.signed

    @property
    def signed(self) -> bool:
        """Whether the feature is the companded coefficient itself, with its sign."""
        return self.companding != "sign_log"

    def feature_shape(self, samples):
        return (self.frame_length // 2, dsp.mdct_frame_count(samples, self.frame_length), 1 if self.signed else 2)

    def samples_of(self, frames):
        # One frame begins before the first sample, so a single one spans none; one sample needs two.
        return (frames - 1) * (self.frame_length // 2)

    def analyse(self, waveform, floor_db):
        """(batch, samples) -> (level in dB, sign) [shape=(batch, bins, frames, 2)]."""
        sign, level = dsp.sign_log(self._coefficients(waveform), floor_db)
        return tf.concat([level, sign], axis=-1)

    def waveform_of(self, db, length=None):
        level, sign = split_level(db)
        return self._waveform(dsp.sign_log_expand(tf.clip_by_value(sign, -1.0, 1.0), level), length)

    def call(self, waveform, statistics=None):
        if not self.signed:
            return super().call(waveform, statistics)
        coefficients = self._coefficients(check_waveform(waveform))
        level = dsp.sign_log(coefficients, self.min_db)[1]
        return self.normalised(self._compand(coefficients), level, statistics)

    def inverse(self, features, length=None, statistics=None):
        if not self.signed:
            return super().inverse(features, length, statistics)
        values = self.denormalised(tf.cast(features, tf.float32), statistics)
        top = self.value_of(self.ceiling_db(statistics))
        return self._waveform(self._expand(tf.clip_by_value(values, -top, top)), length)

    def from_db(self, db, statistics=None):
        """(level, sign) -> features."""
        if not self.signed:
            return super().from_db(db, statistics)
        level, sign = split_level(tf.cast(db, tf.float32))
        return self.normalised(self._compand(dsp.sign_log_expand(sign, level)), level, statistics)

    def to_db(self, features, statistics=None):
        """Features -> (level, sign); what is below ``min_db`` reads that level with sign 0."""
        if not self.signed:
            return super().to_db(features, statistics)
        top = self.value_of(EXTREME)
        values = tf.clip_by_value(self.denormalised(tf.cast(features, tf.float32), statistics), -top, top)
        sign, level = dsp.sign_log(self._expand(values), self.min_db)
        return tf.concat([level, sign], axis=-1)

    @property
    def db_per_unit(self):
        """As of other representations; None where features have signs."""
        return None if self.signed else super().db_per_unit

    def values(self, waveform):
        if not self.signed:
            return super().values(waveform)
        return self._compand(self._coefficients(check_waveform(waveform)))

    def value_of(self, db):
        return self._compand(db_to_magnitude(db)) if self.signed else db

    def _coefficients(self, waveform):
        """(batch, samples) -> coefficients relative to full scale (batch, bins, frames, 1)."""
        coefficients = dsp.mdct(waveform, self.frame_length, self.window) / self._full_scale
        return tf.transpose(coefficients, [0, 2, 1])[..., None]

    def _waveform(self, coefficients, length):
        coefficients = tf.transpose(coefficients[..., 0], [0, 2, 1]) * self._full_scale
        return dsp.imdct(coefficients, self.frame_length, self.window, length)

    def _compand(self, coefficients):
        if self.companding == "asinh":
            return dsp.asinh_compress(coefficients, self.scale)
        return dsp.mu_law_compress(coefficients, self.mu) if self.companding == "mu_law" else coefficients

    def _expand(self, values):
        if self.companding == "asinh":
            return dsp.asinh_expand(values, self.scale)
        return dsp.mu_law_expand(values, self.mu) if self.companding == "mu_law" else values

    def get_config(self):
        return {
            **super().get_config(),
            "frame_length": self.frame_length,
            "window": self.window,
            "companding": self.companding,
            "scale": self.scale,
            "mu": self.mu,
        }
