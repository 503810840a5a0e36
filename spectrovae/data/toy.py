"""Sounds made by formula, with the factors that made them: no files, no network.

A toy set is named like a folder of recordings, with options if any: ``toy:harmonic``,
``toy:harmonic?size=500&seed=1``, ``toy:additive?noise_db=-40``, ``toy:fm``.
"""

import inspect
import math
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from spectrovae.audio import example_length
from spectrovae.data.toy_grids import Additive, FrequencyModulation
from spectrovae.data.toy_set import ToySet
from spectrovae.errors import InputError

PREFIX = "toy:"


class Harmonic(ToySet):
    """The "spectral richness" set: a harmonic series on 220 Hz, from one partial to all below Nyquist.

    Partial n has amplitude 1/n. The factor, richness r in [1, N], says how many there are: partials up to
    floor(r) are whole, the next one is faded in by the rest of r, so that every sound of the set has its own
    spectrum. Sound i has r = 1 + (N - 1) i / (size - 1), with N = 18 at 8 kHz. Phases are random. One gain
    for all sounds keeps them within [-0.9, 0.9] whatever the phases.

    Args:
        sample_rate: Hz.
        samples: of each sound.
        size: number of sounds.
        seed: of the phases.

    Raises:
        InputError: a size, length or rate that leaves nothing to make.
    """

    name = "harmonic"
    factor_names = ("richness",)
    fundamental = 220.0

    def __init__(self, sample_rate: int = 8000, samples: int = 8064, size: int = 10_000, seed: int = 0):
        self.sample_rate, self.samples, self.size, self.seed = sample_rate, samples, size, seed
        # The last partial stays below Nyquist.
        self.partials = int(np.ceil(sample_rate / 2 / self.fundamental)) - 1
        if self.partials < 1 or samples < 1 or size < 2 or seed < 0:
            raise InputError(
                f"toy:harmonic needs a rate above {2 * self.fundamental:g} Hz, samples >= 1, size >= 2 and "
                "seed >= 0; "
                f"received sample_rate={sample_rate}, samples={samples}, size={size}, seed={seed}"
            )
        self._phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (size, self.partials))
        time = np.arange(samples) / sample_rate
        angles = 2 * np.pi * self.fundamental * np.arange(1, self.partials + 1)[:, None] * time
        self._waves = np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32)

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of these sounds: float64 ``(sounds, 1)``, the richness r."""
        indices = np.asarray(indices)
        return (1 + (self.partials - 1) * indices / (self.size - 1))[:, None]

    def waveforms(self, indices: np.ndarray) -> np.ndarray:
        """These sounds: float32 ``(sounds, samples)``."""
        indices = np.asarray(indices)
        number = np.arange(1, self.partials + 1)
        amplitudes = np.clip(self.factors(indices) - number + 1, 0, 1) / number
        amplitudes *= 0.9 / np.sum(1 / number)
        # sin(wt + p) = cos(p) sin(wt) + sin(p) cos(wt): all sounds in one matrix product.
        phases = self._phases[indices]
        weights = np.concatenate([amplitudes * np.cos(phases), amplitudes * np.sin(phases)], axis=1)
        return weights.astype(np.float32) @ self._waves


TOYS: dict[str, type] = {toy.name: toy for toy in (Harmonic, Additive, FrequencyModulation)}


def open_toy(
    source: str, sample_rate: int | None = None, samples: int | None = None, duration: float | None = None
) -> ToySet:
    """Make the toy set that ``toy:NAME?option=number&...`` names.

    Args:
        source: the name with its options.
        sample_rate, samples: stand above the options of the same name.
        duration: seconds of each sound where no ``samples`` are given.

    Raises:
        InputError: an unknown set or option, or a value that is no number.
    """
    name, _, query = source.removeprefix(PREFIX).partition("?")
    if name not in TOYS:
        raise InputError(f"there is no toy set {name!r}; choose from {', '.join(PREFIX + toy for toy in TOYS)}")
    known = inspect.signature(TOYS[name]).parameters
    options: dict[str, Any] = {}
    for option, value in parse_qsl(query, keep_blank_values=True):
        number = _number(value, whole=option != "noise_db")
        if option not in known or number is None:
            raise InputError(
                f"{source}: options are numbers for {', '.join(known)}, whole but for noise_db; "
                f"received {option}={value}"
            )
        options[option] = number
    rate = options["sample_rate"] = sample_rate or options.get("sample_rate", known["sample_rate"].default)
    options["samples"] = example_length(rate, samples or options.get("samples"), duration)
    return TOYS[name](**options)


def _number(text: str, whole: bool) -> float | None:
    """The number that the text is, or None."""
    if whole:
        return int(text) if text.isdecimal() else None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
