"""Disturbances of a sound before it is normalised: of its dB spectrogram, or of the waveform behind it.

To add one, write a pure function and enter it in ``PERTURBATIONS``. Each has one severity, a number with a unit, and
one of its values, ``none``, changes nothing.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr

from spectrovae.errors import InputError

PIVOT_HZ = 1000.0
"""The frequency that a tilt leaves as it is."""
MP3_DELAY = 576 + 529
"""Samples by which LAME's encoder and the decoder are late together."""

Key = int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A disturbance and what its severity means.

    Attributes:
        apply: for ``"spectrogram"`` (level in dB (bins, frames, 1), severity, generator, representation or None) ->
            disturbed level, not clipped; for ``"waveform"`` (float32 (samples,), severity, generator, sample rate in
            Hz) -> the same shape.
        unit: of the severity.
        meaning: the severity in words, for tables and pages; ``{}`` stands for its value.
        severities: where curves are taken by default.
        default: the severity that is tabulated, and that a model is trained on, where nobody says otherwise.
        none: the severity that changes nothing; infinite where more is less.
        least, most: the range of severities.
        domain: ``"spectrogram"`` or ``"waveform"``.
        random: whether it draws anything.
        distance: (severity, frequencies of the bins in Hz) -> expected RMS of the disturbance in dB, whatever the
            sound; None where it depends on the sound.
    """

    apply: Callable[..., np.ndarray]
    unit: str
    meaning: str
    severities: tuple[float, ...]
    default: float
    none: float = 0.0
    least: float = 0.0
    most: float = math.inf
    domain: str = "spectrogram"
    random: bool = True
    distance: Callable[[float, np.ndarray], float] | None = None

    def check(self, name: str, severity: float) -> float:
        """The severity as a number.

        Raises:
            InputError: outside the range.
        """
        severity = float(severity)
        if severity != self.none and not (math.isfinite(severity) and self.least <= severity <= self.most):
            within = "any" if math.isinf(self.least) else f"{self.least:g} or more"
            within = within if math.isinf(self.most) else f"from {self.least:g} to {self.most:g}"
            raise InputError(f"the severity of {name} is a number ({self.unit}), {within}; received {severity:g}")
        return severity


def uniform(db, level, random, representation=None):
    """Add independent noise, uniform in [-level, level] dB, to every cell; RMS level / sqrt(3)."""
    noise = 2.0 * random.random(db.shape, dtype=np.float32) - 1.0
    return db + np.float32(level) * noise


def gaussian(db, level, random, representation=None):
    """Add independent Gaussian noise of the RMS of ``uniform``, level / sqrt(3) dB, to every cell."""
    return db + np.float32(level / math.sqrt(3.0)) * random.standard_normal(db.shape, dtype=np.float32)


def signs(db, level, random, representation=None):
    """Add +level or -level dB to every cell: the corners of a ball, of which ``worst_case`` finds the worst."""
    return db + np.float32(level) * _sign(random, db.shape)


def gain(db, level, random, representation=None):
    """Make the whole clip level dB louder or softer, as a draw decides."""
    return db + np.float32(level) * _sign(random)


def tilt(db, level, random, representation):
    """Add +level or -level dB an octave above ``PIVOT_HZ``, and as much less below it, as a draw decides."""
    slope = octaves(representation.frequencies)[:, None, None]
    return db + np.float32(level) * _sign(random) * slope.astype(np.float32)


def band_mask(db, level, random, representation):
    """Put level percent of the bins, a band somewhere, down to the floor."""
    return _masked(db, level, random, representation, axis=0)


def time_mask(db, level, random, representation):
    """Put level percent of the frames, a stretch somewhere, down to the floor."""
    return _masked(db, level, random, representation, axis=1)


def white_noise(waveform, snr_db, random, sample_rate):
    """Add white Gaussian noise, its RMS snr_db below that of the clip without its silent samples."""
    return _mixed(waveform, random.standard_normal(len(waveform)), snr_db)


def pink_noise(waveform, snr_db, random, sample_rate):
    """The same with a spectrum of equal power in every octave."""
    spectrum = np.fft.rfft(random.standard_normal(len(waveform)))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0))
    return _mixed(waveform, np.fft.irfft(spectrum, len(waveform)), snr_db)


def resampling(waveform, factor, random, sample_rate):
    """Resample to a rate that is lower by a factor, and back: nothing is left above half of the lower rate."""
    lower = soxr.resample(waveform, sample_rate, sample_rate / factor, quality="HQ")
    return _fitted(soxr.resample(lower, sample_rate / factor, sample_rate, quality="HQ"), len(waveform))


def mp3(waveform, kilobits, random, sample_rate):
    """Code as MP3 at a constant rate of kbit/s, and decode.

    Raises:
        InputError: MP3 has no such rate at this sample rate, or is not made for this sample rate.
    """
    # libsndfile's scale from 0 to 1 lies over the rates of the sample rate's MPEG version; its end itself is refused.
    least, most = (32, 320) if sample_rate >= 32000 else (8, 160) if sample_rate >= 16000 else (8, 64)
    if not least <= kilobits <= most:
        raise InputError(f"MP3 at {sample_rate} Hz has {least} to {most} kbit/s; received {kilobits:g}")
    compression = min((most - kilobits) / (most - least), 0.99)
    decoded = _coded(
        waveform, sample_rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=compression,
        bitrate_mode="CONSTANT",
    )  # fmt: skip
    # The decoder takes the delay off where a tag tells it; the frames of the lowest rates are too small for the tag.
    delay = MP3_DELAY if len(decoded) >= len(waveform) + MP3_DELAY else 0
    return _fitted(decoded[delay:], len(waveform))


def vorbis(waveform, quality, random, sample_rate):
    """Code as Ogg Vorbis of a quality from 0 to 10, and decode."""
    decoded = _coded(waveform, sample_rate, format="OGG", subtype="VORBIS", compression_level=1.0 - quality / 10.0)
    return _fitted(decoded, len(waveform))


def octaves(frequencies: np.ndarray) -> np.ndarray:
    """Octaves of the bins above ``PIVOT_HZ`` [shape=(bins,)]; a bin at 0 Hz counts as the next one."""
    frequencies = np.asarray(frequencies, np.float64)
    return np.log2(np.maximum(frequencies, frequencies[frequencies > 0].min()) / PIVOT_HZ)


def _sign(random, shape=()):
    return np.float32(2.0) * random.integers(0, 2, shape).astype(np.float32) - np.float32(1.0)


def _masked(db, percent, random, representation, axis):
    size = db.shape[axis]
    width = round(size * percent / 100.0)
    start = int(random.random() * (size - width + 1))
    masked = db.copy()
    masked[(slice(None),) * axis + (slice(start, start + width),)] = representation.min_db
    return masked


def _mixed(waveform, noise, snr_db):
    sounding = waveform[waveform != 0].astype(np.float64)
    if not len(sounding):
        return waveform
    level = math.sqrt(np.mean(sounding**2)) * 10.0 ** (-snr_db / 20.0)
    return (waveform + level * noise / math.sqrt(np.mean(noise**2))).astype(np.float32)


def _fitted(waveform, samples):
    return np.pad(waveform[:samples], (0, max(samples - len(waveform), 0))).astype(np.float32)


def _coded(waveform, sample_rate, **options):
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, waveform, sample_rate, **options)
        buffer.seek(0)
        decoded, _ = soundfile.read(buffer, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise InputError(f"cannot code {len(waveform)} samples as {options['format']}: {error}") from error
    return decoded


_HALF = 1.0 / math.sqrt(3.0)
_NOISE: dict[str, Any] = {"unit": "dB", "severities": (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0), "default": 10.0}
_ALL: dict[str, Any] = {"unit": "dB", "severities": (0.0, 1.0, 3.0, 6.0, 12.0), "default": 6.0}
_MASK: dict[str, Any] = {"unit": "%", "severities": (0.0, 5.0, 10.0, 20.0), "default": 10.0, "most": 100.0}
_SNR: dict[str, Any] = {
    "unit": "dB", "severities": (40.0, 30.0, 20.0, 10.0, 0.0), "default": 20.0, "none": math.inf, "least": -math.inf,
    "domain": "waveform",
}  # fmt: skip
_CODED: dict[str, Any] = {"none": math.inf, "domain": "waveform", "random": False}

PERTURBATIONS = {
    "uniform": Perturbation(
        uniform, meaning="uniform noise of ±{} dB on every cell", distance=lambda level, _: level * _HALF, **_NOISE
    ),
    "gaussian": Perturbation(
        gaussian,
        meaning="Gaussian noise of {} / √3 dB RMS on every cell",
        distance=lambda level, _: level * _HALF,
        **_NOISE,
    ),
    "signs": Perturbation(
        signs, meaning="+{0} or −{0} dB on every cell", distance=lambda level, _: level, **_NOISE
    ),
    "gain": Perturbation(gain, meaning="all of a clip ±{} dB louder", distance=lambda level, _: level, **_ALL),
    "tilt": Perturbation(
        tilt, "dB an octave", f"±{{}} dB an octave round {PIVOT_HZ:g} Hz", (0.0, 0.5, 1.0, 3.0, 6.0), 3.0,
        distance=lambda level, frequencies: level * math.sqrt(np.mean(octaves(frequencies) ** 2)),
    ),
    "band-mask": Perturbation(band_mask, meaning="a band of {} % of the bins silent", **_MASK),
    "time-mask": Perturbation(time_mask, meaning="{} % of the frames silent, in one stretch", **_MASK),
    "white-noise": Perturbation(white_noise, meaning="white noise in the waveform at {} dB SNR", **_SNR),
    "pink-noise": Perturbation(pink_noise, meaning="pink noise in the waveform at {} dB SNR", **_SNR),
    "resampling": Perturbation(
        resampling, "times", "resampled to a rate {} times lower and back", (1.25, 1.5, 2.0, 4.0), 2.0, none=1.0,
        least=1.0, domain="waveform", random=False,
    ),
    "mp3": Perturbation(
        mp3, "kbit/s", "coded as MP3 at {} kbit/s", (64.0, 48.0, 32.0), 32.0, least=8.0, most=320.0, **_CODED
    ),
    "vorbis": Perturbation(
        vorbis, "quality", "coded as Ogg Vorbis of quality {}", (10.0, 5.0, 2.0, 0.0), 2.0, most=10.0, **_CODED
    ),
}  # fmt: skip


def find(name: str) -> Perturbation:
    """The perturbation of a name.

    Raises:
        InputError: there is none.
    """
    if name not in PERTURBATIONS:
        raise InputError(f"unknown perturbation {name!r}: choose one of {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[name]


def parse(text: str) -> tuple[str, tuple[float, ...]]:
    """``NAME`` or ``NAME:SEVERITY,...`` -> the name and the severities given, none where none are.

    Raises:
        InputError: unknown name, or a severity that is no number or out of range.
    """
    name, colon, given = text.partition(":")
    perturbation = find(name)
    try:
        severities = tuple(float(part) for part in given.split(",")) if colon else ()
    except ValueError:
        raise InputError(f"expected {name}:SEVERITY,... in {perturbation.unit}; received {text!r}") from None
    return name, tuple(perturbation.check(name, severity) for severity in severities)


def perturb(
    db: np.ndarray,
    level: float,
    clips: Sequence[Key],
    *,
    name: str = "uniform",
    seed: int = 0,
    representation: Any = None,
) -> np.ndarray:
    """Disturb a batch of dB spectrograms, each clip with a generator of its own.

    A clip's noise depends on the seed and its index alone: every model, every batch size and every severity
    meets the same pattern, scaled, so their figures are paired.

    Args:
        db: (clips, bins, frames, channels), the level in dB first; what else is carried stays as it is.
        level: the severity; ``none`` changes nothing.
        clips: index of each clip in its split, or several numbers for each.
        name: a key of ``PERTURBATIONS`` of the domain "spectrogram".
        seed: seed of the noise.
        representation: of the spectrograms; a tilt and the masks need it.

    Raises:
        InputError: unknown perturbation, or a severity out of range.
    """
    chosen = find(name)
    level = chosen.check(name, level)
    disturbed = np.array(db)
    if level != chosen.none:
        for clip, key in zip(disturbed, clips):
            clip[..., :1] = chosen.apply(clip[..., :1], level, _generator(seed, key), representation)
    return disturbed


def perturb_waveforms(
    waveforms: np.ndarray, level: float, clips: Sequence[Key], *, name: str, sample_rate: int, seed: int = 0
) -> np.ndarray:
    """Disturb a batch of waveforms, float32 (clips, samples) at ``sample_rate`` Hz; the rest as for ``perturb``."""
    chosen = find(name)
    level = chosen.check(name, level)
    if level == chosen.none:
        return np.array(waveforms)
    pairs = zip(waveforms, clips)
    return np.stack([chosen.apply(waveform, level, _generator(seed, key), sample_rate) for waveform, key in pairs])


def perturbed_decibels(
    representation: Any,
    waveforms: np.ndarray,
    level: float,
    clips: Sequence[Key],
    *,
    name: str = "uniform",
    seed: int = 0,
    clean: np.ndarray | None = None,
) -> np.ndarray:
    """Disturbed dB spectrograms of waveforms, by a perturbation of either domain.

    Args:
        representation: analyses the waveforms.
        waveforms: float32 (clips, samples).
        clean: what ``representation.decibels(waveforms)`` gave, where it is there already.

    Returns:
        (clips, bins, frames, channels). The rest as for ``perturb``.
    """
    if find(name).domain == "waveform":
        options: dict[str, Any] = {"name": name, "seed": seed, "sample_rate": representation.sample_rate}
        return np.asarray(representation.decibels(perturb_waveforms(waveforms, level, clips, **options)))
    db = np.asarray(representation.decibels(waveforms)) if clean is None else clean
    return perturb(db, level, clips, name=name, seed=seed, representation=representation)


def _generator(seed: int, key: Key) -> np.random.Generator:
    return np.random.default_rng([seed, *([key] if isinstance(key, int | np.integer) else key)])
