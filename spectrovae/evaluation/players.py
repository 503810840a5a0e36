"""Sounds for a page: equally loud, and as wav files."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import pyloudnorm
import soundfile

BLOCK_SECONDS = 0.4
"""The gating block of ITU-R BS.1770; shorter sounds are measured with silence after them."""

LEVEL_NOTE = (
    "The players of one clip are equally loud: each sound is brought to the loudness of the first (ITU-R BS.1770, "
    "gated), and all of them together are turned down where one would clip. The gain is stated under each player. The "
    "wav files keep their own level."
)


@dataclasses.dataclass(frozen=True)
class Player:
    """A sound as it is played: float32 (samples,) within [-1, 1], and the gain in dB that made it so."""

    waveform: np.ndarray
    gain_db: float


def loudness(waveform: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness of a mono waveform (samples,) in LUFS, after ITU-R BS.1770-4; -inf of silence.

    Its gate leaves pauses out, so that silence after a word does not make the word quieter, as it does to an RMS.
    """
    samples = np.asarray(waveform, np.float64)
    block = int(np.ceil(BLOCK_SECONDS * sample_rate))
    samples = np.pad(samples, (0, max(0, block - len(samples))))
    return float(pyloudnorm.Meter(sample_rate).integrated_loudness(samples))


def match_levels(waveforms: Sequence[np.ndarray], sample_rate: int) -> list[Player]:
    """Bring waveforms to the loudness of the first, then all by one gain so that none exceeds 1.

    What is silent (below the absolute gate, -70 LUFS) keeps its level, but for the common gain; a silent first one
    leaves the others as they are.

    Args:
        waveforms: each (samples,), finite.
        sample_rate: Hz.
    """
    levels = [loudness(waveform, sample_rate) for waveform in waveforms]
    gains = [levels[0] - level if np.isfinite([level, levels[0]]).all() else 0.0 for level in levels]
    scaled = [np.asarray(waveform, np.float64) * 10.0 ** (gain / 20.0) for waveform, gain in zip(waveforms, gains)]
    peak = max(1.0, *(float(np.abs(waveform).max(initial=0.0)) for waveform in scaled))
    common = -20.0 * np.log10(peak)
    return [Player((waveform / peak).astype(np.float32), float(gain + common)) for waveform, gain in zip(scaled, gains)]


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Return a mono waveform (samples,) in [-1, 1] as a 16-bit wav file; samples beyond that range are
    clipped, and those that are no numbers are silent."""
    buffer = io.BytesIO()
    samples = np.nan_to_num(np.clip(np.asarray(waveform, np.float32), -1.0, 1.0))
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
