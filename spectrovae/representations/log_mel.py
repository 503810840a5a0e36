"""Log mel spectrogram."""

import keras
import numpy as np
import tensorflow as tf

from spectrovae.dsp.defaults import window_and_hop
from spectrovae.dsp.mel import hertz_to_mel, invert_mel, mel_filterbank, mel_spectrogram, mel_to_hertz
from spectrovae.dsp.phase import check_method, invert_magnitude
from spectrovae.dsp.stft import db_to_magnitude, frame_count, power_to_db, stft
from spectrovae.errors import InputError
from spectrovae.representations.base import Representation


@keras.saving.register_keras_serializable("spectrovae")
class LogMel(Representation):
    """Mel spectrogram in dB; inverse by non-negative least squares, then a phase search.

    Equal to librosa's, but for the reference: 0 dB is what a full-scale sine reads through the filter with the largest
    weight, so that levels stay below about 0 dB whatever the filters' normalisation.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_fft: window and transform length in samples, even; by default as for ``LogSTFT``.
        hop_length: samples between frames, at most half of ``n_fft``; by default a quarter.
        n_mels: bands.
        f_min, f_max: Hz, the ends of the lowest and highest band; by default 0 and half the sample rate.
        htk: HTK's mel scale instead of Slaney's.
        norm: ``"slaney"``, every filter the same area, or None, every peak 1.
        power: 1 sums magnitudes, 2 their squares.
        inversion_iterations: multiplicative updates of the mel inversion.
        phase_search, phase_iterations, seed: of the inverse, as for ``LogSTFT``.
        **kwargs: ``max_db``, ``dynamic_range`` and ``normalisation`` of :class:`Representation`.

    Input shape: (batch, samples). Output shape: (batch, n_mels, 1 + samples // hop_length, 1).
    """

    def __init__(
        self,
        sample_rate: int = 8000,
        *,
        n_fft: int | None = None,
        hop_length: int | None = None,
        n_mels: int = 128,
        f_min: float = 0.0,
        f_max: float | None = None,
        htk: bool = False,
        norm: str | None = "slaney",
        power: float = 1,
        inversion_iterations: int = 100,
        phase_search: str = "accelerated_griffin_lim",
        phase_iterations: int = 24,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(sample_rate, **kwargs)
        if power not in (1, 2):
            raise InputError(f"power must be 1 (magnitudes) or 2 (their squares), received {power!r}")
        self.n_fft, self.hop_length = window_and_hop(sample_rate, n_fft, hop_length)
        self.n_mels, self.f_min, self.f_max, self.htk, self.norm = n_mels, f_min, f_max, htk, norm
        self.power = power
        self.inversion_iterations = inversion_iterations
        self.phase_search, self.phase_iterations, self.seed = check_method(phase_search), phase_iterations, seed
        filterbank = mel_filterbank(sample_rate, self.n_fft, n_mels, f_min, f_max, htk, norm)
        self._filterbank = filterbank / filterbank.max()
        self._full_scale = self.n_fft / 4.0

    def feature_shape(self, samples):
        return (self.n_mels, frame_count(samples, self.hop_length), 1)

    def samples_of(self, frames):
        return (frames - 1) * self.hop_length

    @property
    def frequencies(self):
        """Centre of each band in Hz [shape=(n_mels,)]."""
        low, high = hertz_to_mel([self.f_min, self.f_max or self.sample_rate / 2.0], self.htk)
        return np.asarray(mel_to_hertz(np.linspace(float(low), float(high), self.n_mels + 2), self.htk))[1:-1]

    def analyse(self, waveform, floor_db):
        magnitude = tf.abs(stft(waveform, self.n_fft, self.hop_length)) / self._full_scale
        mel = mel_spectrogram(magnitude, self._filterbank, self.power)
        level = power_to_db(mel if self.power == 2 else tf.square(mel), floor_db)
        return tf.transpose(level, [0, 2, 1])[..., None]

    def waveform_of(self, db, length=None):
        mel = tf.transpose(db_to_magnitude(db[..., 0]), [0, 2, 1]) ** self.power
        magnitude = invert_mel(mel, self._filterbank, iterations=self.inversion_iterations, power=self.power)
        return invert_magnitude(
            magnitude * self._full_scale,
            self.n_fft,
            self.hop_length,
            method=self.phase_search,
            iterations=self.phase_iterations,
            length=length,
            seed=self.seed,
        )

    def get_config(self):
        names = (
            "n_fft", "hop_length", "n_mels", "f_min", "f_max", "htk", "norm", "power", "inversion_iterations",
            "phase_search", "phase_iterations", "seed",
        )  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
