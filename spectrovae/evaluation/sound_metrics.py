"""Distances between waveforms of equal length, one figure a clip; NaN where a figure is not defined.

Waveforms are float32 (clips, samples) in [-1, 1], mono. ``Reference`` holds what the originals of a batch need once,
however many systems are measured against them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import warnings

import numpy as np
import scipy.fft
import tensorflow as tf

from spectrovae import audio
from spectrovae.dsp.mel import mel_filterbank, mel_spectrogram
from spectrovae.dsp.stft import frame, frame_count, hann, stft
from spectrovae.errors import InputError

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""Transform length, hop and window in samples of the multi-resolution STFT distance."""

CEPSTRA = 13
"""Mel-cepstral coefficients compared, from the first; the zeroth is the level."""

MEL_BANDS = 40
CEPSTRAL_RANGE_DB = 80.0
"""Levels are floored this far under the loudest mel band of the original clip."""

SI_SDR_LIMIT_DB = 120.0
"""No SI-SDR is reported above this or below its negative: a perfect estimate would give infinity."""

STOI_SECONDS = 0.4
"""Clips shorter than STOI's thirty frames have none, however much of them is speech."""

PHASE_INVENTED = (
    "the representation keeps no phase, so that its sound's phase is invented by a search, and a sample-by-sample "
    "comparison would measure the search's luck"
)

_POWER_FLOOR = 1e-8
_PACKAGES = {"pesq": "pesq", "stoi": "pystoi"}
_SPEECH = "the package {} is not installed: pip install 'spectrovae[speech]', with NumPy 1 for pesq"


class Reference:
    """The originals of a batch, to be compared with any number of estimates of them.

    Args:
        waveforms: (clips, samples).
        sample_rate: Hz.

    Raises:
        InputError: waveforms of another shape.
    """

    def __init__(self, waveforms: np.ndarray, sample_rate: int):
        self.waveforms = np.asarray(waveforms, np.float32)
        if self.waveforms.ndim != 2:
            raise InputError(f"waveforms must be shaped (clips, samples), received {self.waveforms.shape}")
        self.sample_rate = sample_rate
        self._loud = np.abs(self.waveforms).max(axis=1, initial=0.0) > 0

    def figures(self, estimates: np.ndarray, *, phase: bool) -> dict[str, np.ndarray]:
        """Every distance of estimates from the originals.

        Args:
            estimates: (clips, samples), the same shape.
            phase: whether the estimates' phase is that of the originals, and not invented by a search.

        Returns:
            By name, (clips,) float64: ``mr_stft``, ``mcd_db``, ``pesq`` and ``stoi`` where their packages are
            installed, ``si_sdr_db`` where ``phase``. See :func:`absent` for what is left out.
        """
        found = {
            "mr_stft": self.multi_resolution_stft(estimates),
            "mcd_db": self.mel_cepstral_distortion(estimates),
        }
        if phase:
            found["si_sdr_db"] = self.si_sdr(estimates)
        for name, measure in (("pesq", self.pesq), ("stoi", self.stoi)):
            if _installed(_PACKAGES[name]):
                found[name] = measure(estimates)
        return found

    def multi_resolution_stft(self, estimates: np.ndarray) -> np.ndarray:
        """Mean over three STFT resolutions of spectral convergence + mean absolute difference of log magnitudes.

        As auraloss defines it by default: convergence is || |S| - |Y| || / || |S| ||, logarithms are natural, power is
        floored at 1e-8, frames are centred with reflection. Lower is better; NaN for a silent clip, and for clips
        shorter than half of the longest window.

        Source: Yamamoto, Song and Kim, "Parallel WaveGAN" (2020); Steinmetz and Reiss, "auraloss" (2020).
        """
        estimates = self._checked(estimates)
        if self.waveforms.shape[1] <= max(window for _, _, window in RESOLUTIONS) // 2:
            return np.full(len(estimates), np.nan)
        distances = [
            np.asarray(_stft_distance(magnitude, estimates, *resolution))
            for magnitude, resolution in zip(self._magnitudes, RESOLUTIONS)
        ]
        return np.where(self._loud, np.mean(distances, axis=0, dtype=np.float64), np.nan)

    def mel_cepstral_distortion(self, estimates: np.ndarray) -> np.ndarray:
        """Mel-cepstral distortion in dB, (10 / ln 10) sqrt(2 sum (c - c')^2), the mean over the frames that sound.

        c is the cosine series of the natural log amplitude (the root of the power) over 40 mel bands, from the first to
        the 13th coefficient; windows of about 32 ms, a quarter apart. It is the RMS difference over bands of the
        smoothed spectra in dB, whatever their levels. Levels are floored 80 dB under the clip's loudest band; a frame
        sounds where the original is above that. Frames are compared as they lie, without time warping. NaN for a silent
        clip.

        Source: Kubichek, "Mel-cepstral distance measure for objective speech quality assessment" (1993).
        """
        estimates = self._checked(estimates)
        cepstra, floors, sounding = self._cepstra
        difference = cepstra - _cepstra(_mel_db(estimates, self.sample_rate), floors)
        distances = np.sqrt(np.sum(np.square(difference), axis=-1) / MEL_BANDS)
        frames = sounding.sum(axis=1)
        total = np.sum(distances * sounding, axis=1, dtype=np.float64)
        return np.where(self._loud, total / np.maximum(frames, 1), np.nan)

    def si_sdr(self, estimates: np.ndarray) -> np.ndarray:
        """Scale-invariant signal-to-distortion ratio in dB, within +-120; NaN for a silent clip.

        Source: Le Roux, Wisdom, Erdogan and Hershey, "SDR - half-baked or well done?" (2019).
        """
        reference, estimate = self.waveforms.astype(np.float64), self._checked(estimates).astype(np.float64)
        energy = np.sum(reference**2, axis=1)
        scale = np.sum(reference * estimate, axis=1) / np.where(self._loud, energy, 1.0)
        target = scale[:, None] * reference
        floor = np.finfo(np.float64).tiny
        signal, error = np.sum(target**2, axis=1), np.sum((target - estimate) ** 2, axis=1)
        ratio = 10.0 * (np.log10(np.maximum(signal, floor)) - np.log10(np.maximum(error, floor)))
        ratio = np.where(signal > 0, ratio, -np.inf)  # of a silent estimate too, whose error is 0
        return np.where(self._loud, np.clip(ratio, -SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB), np.nan)

    def pesq(self, estimates: np.ndarray) -> np.ndarray:
        """Perceptual evaluation of speech quality, MOS-LQO from about 1 to 4.5, by the package ``pesq``.

        Narrow-band at 8 kHz; where the sample rate is 16 kHz or more, wide-band at 16 kHz. NaN where it finds no
        speech in the original or in the estimate, or the clip is shorter than a quarter of a second.

        Source: ITU-T P.862, P.862.1 and P.862.2.
        """
        from pesq import PesqError, pesq

        rate, mode = (16000, "wb") if self.sample_rate >= 16000 else (8000, "nb")
        pairs = zip(*(audio.resample(x, self.sample_rate, rate) for x in (self.waveforms, self._checked(estimates))))
        scores = [pesq(rate, x, y, mode, on_error=PesqError.RETURN_VALUES) if y.any() else -1 for x, y in pairs]
        return np.array([score if score > 0 else np.nan for score in scores], np.float64)

    def stoi(self, estimates: np.ndarray) -> np.ndarray:
        """Short-time objective intelligibility, to 1, by the package ``pystoi``; NaN under 0.4 s of speech.

        Source: Taal, Hendriks, Heusdens and Jensen, "An algorithm for intelligibility prediction of time-frequency
        weighted noisy speech" (2011).
        """
        from pystoi import stoi

        estimates = self._checked(estimates)
        if self.waveforms.shape[1] < STOI_SECONDS * self.sample_rate:
            return np.full(len(estimates), np.nan)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not enough STFT frames")
            scores = [
                stoi(x, y, self.sample_rate) if loud else np.nan
                for x, y, loud in zip(self.waveforms, estimates, self._loud)
            ]
        # what pystoi returns for clips that it finds too short
        return np.array([np.nan if score == 1e-5 else score for score in scores], np.float64)

    def _checked(self, estimates: np.ndarray) -> np.ndarray:
        estimates = np.asarray(estimates, np.float32)
        if estimates.shape != self.waveforms.shape:
            raise InputError(f"estimates must be shaped {self.waveforms.shape}, received {estimates.shape}")
        return estimates

    @functools.cached_property
    def _magnitudes(self) -> list[tf.Tensor]:
        return [_magnitude(self.waveforms, *resolution) for resolution in RESOLUTIONS]

    @functools.cached_property
    def _cepstra(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cepstra of the originals (clips, frames, CEPSTRA), floors in dB (clips,), frames that sound."""
        levels = _mel_db(self.waveforms, self.sample_rate)
        floors = levels.max(axis=(1, 2)) - CEPSTRAL_RANGE_DB
        sounding = np.any(levels > floors[:, None, None], axis=2)
        return _cepstra(levels, floors), floors, sounding


def absent(*, phase: bool) -> dict[str, str]:
    """The figures that ``Reference.figures`` leaves out, each with the reason."""
    reasons = {} if phase else {"si_sdr_db": PHASE_INVENTED}
    return reasons | {name: _SPEECH.format(package) for name, package in _PACKAGES.items() if not _installed(package)}


@functools.cache
def _installed(package: str) -> bool:
    """Whether it can be imported: pesq 0.0.4 is compiled for NumPy 1, and fails where NumPy 2 is."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(package)
    except (ImportError, AttributeError):
        return False
    return True


@tf.function(reduce_retracing=True)
def _magnitude(waveform, n_fft, hop, window):
    """STFT magnitudes (clips, frames, bins) of windows in the middle of ``n_fft`` samples, centred by reflection."""
    # The transform's zeros on both sides of the window are not framed: they turn phases alone.
    padded = tf.pad(waveform, [[0, 0], [window // 2, window // 2]], "REFLECT")
    framed = frame(padded, window, hop, frame_count(tf.shape(waveform)[1], hop)) * hann(window)
    spectrum = tf.signal.rfft(framed, [n_fft])
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    return tf.sqrt(tf.maximum(power, _POWER_FLOOR))


@tf.function(reduce_retracing=True)
def _stft_distance(reference, estimate, n_fft, hop, window):
    estimate = _magnitude(estimate, n_fft, hop, window)
    error, norm = (tf.reduce_sum(tf.square(x), axis=[1, 2]) for x in (estimate - reference, reference))
    difference = tf.abs(tf.math.log(reference) - tf.math.log(estimate))
    return tf.sqrt(error / norm) + tf.reduce_mean(difference, axis=[1, 2])


def _mel_db(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mel bands (clips, frames, MEL_BANDS) in dB."""
    n_fft = 2 ** max(6, round(math.log2(0.032 * sample_rate)))
    return np.asarray(_mel_levels(waveform, sample_rate, n_fft))


@tf.function(reduce_retracing=True)
def _mel_levels(waveform, sample_rate, n_fft):
    power = mel_spectrogram(tf.abs(stft(waveform, n_fft, n_fft // 4)), _filters(sample_rate, n_fft))
    return (10.0 / math.log(10.0)) * tf.math.log(tf.maximum(power, 1e-20))


@functools.cache
def _filters(sample_rate: int, n_fft: int) -> np.ndarray:
    return mel_filterbank(sample_rate, n_fft, MEL_BANDS, allow_empty=True)


def _cepstra(levels: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """Orthonormal cosine series of floored levels in dB (clips, frames, CEPSTRA), without the zeroth."""
    floored = np.maximum(levels, floors[:, None, None])
    return scipy.fft.dct(floored, norm="ortho", axis=-1)[..., 1 : CEPSTRA + 1]
