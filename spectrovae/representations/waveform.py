"""Samples as features, for models of the waveform itself: sub-bands of it, or chunks."""

import keras
import tensorflow as tf

from spectrovae.dsp import pqmf
from spectrovae.errors import InputError
from spectrovae.representations.base import HEADROOM, Representation, check_waveform
from spectrovae.representations.magnitude_phase import MagnitudePhase


class Waveform(Representation):
    """Signed samples, divided by ``peak``; levels in dB are those of a spectrogram that is looked at beside them.

    So that a disturbance in dB, an error in dB and a picture mean here what they mean elsewhere, ``decibels`` and
    ``to_db`` give the level and phase of a ``MagnitudePhase`` spectrogram, and ``from_db`` the features of the
    waveform it stands for. Of a length that its hop does not divide, the last samples are left out on that way.

    Args:
        sample_rate: of the waveforms, in Hz.
        peak: the sample that becomes 1.
        **kwargs: ``max_db`` and ``dynamic_range`` of that spectrogram, as in :class:`Representation`.
    """

    keeps_phase = True
    normalisations: tuple[str, ...] = ("range",)

    def __init__(self, sample_rate: int = 8000, *, peak: float = 1.0, **kwargs):
        super().__init__(sample_rate, **kwargs)
        if self.normalisation != "range":
            raise InputError(
                f"normalisation must be range for features that are samples, received {self.normalisation!r}"
            )
        if not peak > 0:
            raise InputError(f"peak must be positive, received {peak!r}")
        self.peak = float(peak)
        self.spectrogram = MagnitudePhase(self.sample_rate, max_db=self.max_db, dynamic_range=self.dynamic_range)

    def cut(self, waveform):
        """Waveform (batch, samples) -> samples as features are laid out (batch, bins, frames, 1)."""
        raise NotImplementedError

    def joined(self, cut):
        """What :meth:`cut` gave -> waveform, all that the frames span."""
        raise NotImplementedError

    def get_view(self):
        return self.spectrogram

    @property
    def frequencies(self):
        """Frequency of each bin of the spectrogram in Hz."""
        return self.spectrogram.frequencies

    @property
    def db_per_unit(self):
        """None: samples are no levels."""
        return None

    def call(self, waveform, statistics=None):
        return self.cut(check_waveform(waveform)) / self.peak

    def inverse(self, features, length=None, statistics=None):
        waveform = self.joined(self.samples_in(features))
        if length is None:
            return waveform
        return tf.pad(waveform, [[0, 0], [0, tf.maximum(length - tf.shape(waveform)[1], 0)]])[:, :length]

    def analyse(self, waveform, floor_db):
        return self.spectrogram.analyse(waveform, floor_db)

    def samples_in(self, features):
        """Features -> samples, still laid out as features, limited to ``HEADROOM`` above full scale or ``peak``."""
        top = max(self.peak, 1.0) * 10.0 ** (HEADROOM / 20.0)
        return tf.clip_by_value(tf.cast(features, tf.float32) * self.peak, -top, top)

    def waveform_of(self, db, length=None):
        return self.spectrogram.waveform_of(tf.cast(db, tf.float32), length)

    def from_db(self, db, statistics=None):
        """(level, cos, sin) of the spectrogram -> features of its waveform, of as many whole frames as it holds."""
        waveform = self.waveform_of(db)
        frames = self.whole_frames(tf.shape(waveform)[1])
        return self(waveform)[:, :, :frames]

    def to_db(self, features, statistics=None):
        """Features -> (level, cos, sin) of the spectrogram of their waveform."""
        return self.decibels(self.inverse(features))

    def whole_frames(self, samples):
        """Frames that ``samples`` samples fill, at least one."""
        raise NotImplementedError

    def sample_peak(self, dataset) -> float:
        """Largest absolute sample over batches of waveforms, for ``peak``.

        Raises:
            InputError: every waveform is silent, or there is none.
        """
        found = max((float(tf.reduce_max(tf.abs(check_waveform(batch)))) for batch in dataset), default=0.0)
        if found < 1e-10:
            raise InputError("the recordings are silent: no peak to divide by; give peak yourself")
        return found

    def get_config(self):
        return {**super().get_config(), "peak": self.peak}


@keras.saving.register_keras_serializable("spectrovae")
class Subbands(Waveform):
    """Sub-bands of a pseudo-quadrature mirror filter bank, at ``1 / bands`` of the rate (Nguyen, 1994; as in RAVE).

    The inverse is exact to about 60 dB (``dsp.pqmf``), but for ``4 * bands`` samples at the very beginning and end,
    which the filters' tails would complete; of one band, the waveform itself, it is exact.

    Args:
        sample_rate: of the waveforms, in Hz.
        bands: how many; by default 4 below 16 kHz, 8 below 32 kHz, 16 above.
        attenuation: of the bank's filters, 60 to 100 dB.
        **kwargs: of :class:`Waveform`.

    Input shape: (batch, samples). Output shape: (batch, bands, ceil(samples / bands), 1), the lowest band first.
    """

    def __init__(self, sample_rate: int = 8000, *, bands: int | None = None, attenuation: float = 100.0, **kwargs):
        super().__init__(sample_rate, **kwargs)
        if bands is None:
            bands = 4 if sample_rate < 16000 else 8 if sample_rate < 32000 else 16
        if int(bands) != bands or bands < 1:
            raise InputError(f"bands must be a whole number, at least 1, received {bands!r}")
        self.hop_length = int(bands)
        self.attenuation = float(attenuation)
        self.filters = None if bands == 1 else pqmf.pqmf_filters(self.hop_length, self.attenuation)

    @property
    def bins(self):
        return self.hop_length

    @property
    def context(self):
        return 1 if self.filters is None else self.filters.shape[1] // self.hop_length // 2 + 1

    def feature_shape(self, samples):
        return (self.hop_length, -(-samples // self.hop_length), 1)

    def samples_of(self, frames):
        return frames * self.hop_length

    def whole_frames(self, samples):
        return tf.maximum(samples // self.hop_length, 1)

    def cut(self, waveform):
        bands = waveform[..., None] if self.filters is None else pqmf.analysis(waveform, self.filters, tails=False)
        return tf.transpose(bands, [0, 2, 1])[..., None]

    def joined(self, cut):
        bands = tf.transpose(cut[..., 0], [0, 2, 1])
        return bands[..., 0] if self.filters is None else pqmf.synthesis(bands, self.filters, tails=False)

    def get_config(self):
        return {**super().get_config(), "bands": self.hop_length, "attenuation": self.attenuation}


@keras.saving.register_keras_serializable("spectrovae")
class Chunks(Waveform):
    """Chunks of the waveform, each a frame of its own; neighbours overlap, and the inverse cross-fades them.

    The two fades sum to 1 at every sample, so that equal chunks give the waveform exactly.

    Args:
        sample_rate: of the waveforms, in Hz.
        length: samples of a chunk.
        overlap: part of a chunk that it shares with the next, from 0 to 0.5.
        **kwargs: of :class:`Waveform`.

    Input shape: (batch, samples). Output shape: (batch, length, chunks, 1).
    """

    def __init__(self, sample_rate: int = 8000, *, length: int = 22050, overlap: float = 0.25, **kwargs):
        super().__init__(sample_rate, **kwargs)
        if int(length) != length or length < 2:
            raise InputError(f"length must be a whole number of samples, at least 2, received {length!r}")
        if not 0.0 <= overlap <= 0.5:
            raise InputError(f"overlap must be from 0 to 0.5 of a chunk, received {overlap!r}")
        self.length, self.overlap = int(length), float(overlap)
        self.shared = round(self.length * self.overlap)
        self.hop_length = self.length - self.shared

    @property
    def bins(self):
        return self.length

    @property
    def context(self):
        return 2

    def feature_shape(self, samples):
        chunks = -(-(samples - self.shared) // self.hop_length)
        return (self.length, tf.maximum(chunks, 1) if tf.is_tensor(chunks) else max(chunks, 1), 1)

    def samples_of(self, frames):
        return frames * self.hop_length + self.shared

    def whole_frames(self, samples):
        return tf.maximum((samples - self.shared) // self.hop_length, 1)

    def cut(self, waveform):
        samples = tf.shape(waveform)[1]
        missing = self.samples_of(self.feature_shape(samples)[1]) - samples
        chunks = tf.signal.frame(tf.pad(waveform, [[0, 0], [0, missing]]), self.length, self.hop_length)
        return tf.transpose(chunks, [0, 2, 1])[..., None]

    def joined(self, cut):
        chunks = tf.transpose(cut[..., 0], [0, 2, 1])
        rise = (tf.range(self.shared, dtype=tf.float32) + 0.5) / max(self.shared, 1)
        fade = tf.concat([rise, tf.ones([self.length - 2 * self.shared]), rise[::-1]], axis=0)
        weights = tf.signal.overlap_and_add(tf.ones_like(chunks[:1]) * fade, self.hop_length)
        return tf.signal.overlap_and_add(chunks * fade, self.hop_length) / weights

    def get_config(self):
        return {**super().get_config(), "length": self.length, "overlap": self.overlap}
