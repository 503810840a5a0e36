"""Augmentation of waveforms for little data: what changes a sound and leaves it one that could have been recorded.

The target is the augmented sound itself, unlike in ``corrupt``. What is done to an example is a function of (seed,
epoch, example), so that a run that was stopped continues with the sounds it would have heard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
import tensorflow as tf

from spectrovae.errors import InputError

AUGMENTED = 2
"""Last number of an example's key but one: what is drawn here is not what ``corrupt`` draws."""
THRESHOLD = -40.0
"""Level in dB (RMS relative to a full-scale square wave) above which compression works: all of speech and music but
their pauses, which it therefore does not lift out of the noise."""
SMOOTHING = 0.02
"""Time constant of the level that compression follows, in s: above a period of 50 Hz, or it would distort."""
FADE = 0.005
"""Length of the ramps of a muted part in s, so that no click is learnt."""
BANDWIDTH = 140.0
"""Bandwidth in Hz of an all-pass filter's pole: its phase turns by 360 degrees within about as much, and its delay is a
few ms at most."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to change a waveform.

    Attributes:
        apply: (waveform (samples,), strength, generator, sample rate in Hz) -> float (samples,).
        default: strength where none is given.
        none: strength that changes nothing, and the least.
        most: greatest strength.
        meaning: of the strength.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator, int], np.ndarray]
    default: float
    none: float
    most: float
    meaning: str


def gain(waveform: np.ndarray, strength: float, generator: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Louder or softer by up to ``strength`` dB, drawn uniformly."""
    return waveform * 10.0 ** (generator.uniform(-strength, strength) / 20.0)


def phase(waveform: np.ndarray, strength: float, generator: np.random.Generator, sample_rate: int) -> np.ndarray:
    """So many all-pass filters of second order in a row, each turning the phase about a frequency of its own.

    Frequencies are drawn log-uniformly from 20 Hz to 2 kHz, or to 90 % of the Nyquist frequency where that is lower.
    """
    frequencies = np.exp(generator.uniform(np.log(20.0), np.log(min(2000.0, 0.45 * sample_rate)), int(strength)))
    return scipy.signal.sosfilt(allpass(frequencies, sample_rate), waveform)


def allpass(frequencies: np.ndarray, sample_rate: int) -> np.ndarray:
    """Second-order sections [shape=(n, 6)] with a pole at each frequency in Hz, and its mirror image for a zero."""
    radius = np.exp(-np.pi * BANDWIDTH / sample_rate)
    middle = -2.0 * radius * np.cos(2.0 * np.pi * np.asarray(frequencies) / sample_rate)
    last, one = np.full_like(middle, radius**2), np.ones_like(middle)
    return np.stack([last, middle, one, one, middle, last], axis=-1)


def mute(waveform: np.ndarray, strength: float, generator: np.random.Generator, sample_rate: int) -> np.ndarray:
    """One part silent: up to ``strength`` of the whole, drawn uniformly, anywhere."""
    samples = len(waveform)
    length = int(generator.uniform(0.0, strength) * samples)
    start = generator.integers(0, samples - length + 1)
    if not length:
        return waveform
    places = np.arange(samples)
    outside = np.maximum(start - places, places - (start + length - 1))
    return waveform * np.clip(outside / (FADE * sample_rate), 0.0, 1.0)


def compression(waveform: np.ndarray, strength: float, generator: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Less dynamic: ``THRESHOLD`` and above, differences of level are divided by a ratio of up to ``strength``.

    The ratio is drawn log-uniformly from 1 on. The whole keeps its RMS. A feed-forward compressor (Giannoulis,
    Massberg and Reiss, 2012).
    """
    return compress(waveform, np.exp(generator.uniform(0.0, np.log(strength))), sample_rate)


def compress(waveform: np.ndarray, ratio: float, sample_rate: int) -> np.ndarray:
    """:func:`compression` by a ratio that is given."""
    waveform = np.asarray(waveform, np.float64)
    keep = np.exp(-1.0 / (SMOOTHING * sample_rate))
    power = scipy.signal.lfilter([1.0 - keep], [1.0, -keep], np.square(waveform))
    above = np.maximum(10.0 * np.log10(power + 1e-12) - THRESHOLD, 0.0)
    compressed = waveform * 10.0 ** (-(1.0 - 1.0 / ratio) * above / 20.0)
    before, after = (np.sqrt(np.mean(np.square(x))) for x in (waveform, compressed))
    return compressed * (before / after) if after > 0.0 else compressed


KINDS = {
    "compression": Kind(compression, 4.0, 1.0, 20.0, "greatest ratio"),
    "phase": Kind(phase, 1.0, 0.0, 64.0, "all-pass filters in a row"),
    "mute": Kind(mute, 0.25, 0.0, 1.0, "greatest part of an example"),
    "gain": Kind(gain, 6.0, 0.0, 60.0, "greatest change in dB"),
}
"""In the order in which they are applied."""


class Augmentation:
    """Changes training waveforms anew in each epoch.

    Args:
        strengths: of each kind by name, see ``KINDS``.
        sample_rate: in Hz.
        seed: of all that is drawn.

    Raises:
        InputError: no such kind, or a strength out of range.
    """

    def __init__(self, strengths: dict[str, float], sample_rate: int, seed: int = 0):
        self.strengths = {name: _checked(name, value) for name, value in strengths.items()}
        self.sample_rate, self.seed = sample_rate, seed

    def __call__(self, waveforms: np.ndarray, indices: Any, epoch: int) -> np.ndarray:
        """Augmented waveforms, float32 (batch, samples); those that would pass full scale are scaled to it.

        Args:
            waveforms: (batch, samples).
            indices: of the examples in their split.
            epoch: from 0; -1 for a dataset of one pass.
        """
        rows = [self._one(waveform, int(index), int(epoch)) for waveform, index in zip(waveforms, indices)]
        return np.stack(rows).astype(np.float32) if rows else np.array(waveforms, np.float32)

    def _one(self, waveform: np.ndarray, index: int, epoch: int) -> np.ndarray:
        highest = max(1.0, float(np.max(np.abs(waveform), initial=0.0)))
        changed = False
        for number, (name, kind) in enumerate(KINDS.items()):
            strength = self.strengths.get(name, kind.none)
            if strength != kind.none:
                # A key for each kind: one more does not change what the others do.
                generator = np.random.default_rng([self.seed, epoch + 1, index, AUGMENTED, number])
                waveform, changed = kind.apply(waveform, strength, generator, self.sample_rate), True
        return waveform / max(1.0, float(np.max(np.abs(waveform), initial=0.0)) / highest) if changed else waveform

    def waveforms(self, recordings: Any, split: str, batch_size: int, **order: Any) -> tf.data.Dataset:
        """Batches of augmented waveforms, float32 (batch, samples).

        Args:
            order: ``shuffle``, ``seed`` and ``first_epoch`` of ``Recordings.waveforms``.
        """
        batches = recordings.waveforms(split, batch_size, numbered=True, **order)
        return batches.map(self._augmented, num_parallel_calls=tf.data.AUTOTUNE)

    def features(
        self, recordings: Any, split: str, representation: Any, batch_size: int, **order: Any
    ) -> tf.data.Dataset:
        """Batches of ``representation`` of the augmented waveforms; the rest as for :meth:`waveforms`."""
        batches = self.waveforms(recordings, split, batch_size, **order)
        return batches.map(representation, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _augmented(self, waveforms, rows, epoch):
        return tf.ensure_shape(tf.numpy_function(self, [waveforms, rows, epoch], tf.float32), waveforms.shape)


def parse(text: str | None) -> dict[str, float]:
    """``NAME`` or ``NAME:STRENGTH``, several with commas between -> strengths by name, those that do something.

    Nothing is named by None, the empty text and ``"none"``.

    Raises:
        InputError: no such kind, one named twice, or a strength that is no number or out of range.
    """
    strengths: dict[str, float] = {}
    for part in [] if text in (None, "", "none") else str(text).split(","):
        name, colon, given = part.strip().partition(":")
        kind = _kind(name)
        if name in strengths:
            raise InputError(f"expected each augmentation once, received {text!r}")
        try:
            strengths[name] = _checked(name, float(given) if colon else kind.default)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"expected {name}:STRENGTH ({kind.meaning}), received {part!r}") from None
    return {name: strengths[name] for name in KINDS if strengths.get(name, KINDS[name].none) != KINDS[name].none}


def canonical(text: str | None) -> str | None:
    """The text in one form, ``NAME:STRENGTH,...`` in the order of ``KINDS``; None where nothing is changed."""
    return ",".join(f"{name}:{strength:g}" for name, strength in parse(text).items()) or None


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise InputError(f"unknown augmentation {name!r}: choose from {', '.join(KINDS)}")
    return KINDS[name]


def _checked(name: str, strength: float) -> float:
    kind = _kind(name)
    if not kind.none <= strength <= kind.most or (name == "phase" and strength != int(strength)):
        whole = "a whole number " if name == "phase" else ""
        raise InputError(
            f"{name} ({kind.meaning}) must be {whole}from {kind.none:g} to {kind.most:g}, received {strength:g}"
        )
    return float(strength)
