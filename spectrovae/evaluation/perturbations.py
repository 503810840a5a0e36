"""Disturbances of a dB spectrogram before it is normalised: pure functions of it, a level and a generator.

To add one, write the function and enter it in ``PERTURBATIONS``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from spectrovae.errors import InputError


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A disturbance and what its level means.

    Attributes:
        apply: (dB spectrogram of any shape, level, generator) -> disturbed spectrogram, same shape, not
            clipped.
        distance: level -> expected RMS of the disturbance in dB, whatever the sound.
        meaning: the level in words, for tables and pages.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    distance: Callable[[float], float]
    meaning: str


def uniform(db: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    """Add independent noise, uniform in [-level, level] dB, to every cell; RMS level / sqrt(3)."""
    noise = 2.0 * random.random(db.shape, dtype=np.float32) - 1.0
    return db + np.float32(level) * noise


PERTURBATIONS = {
    "uniform": Perturbation(uniform, lambda level: level / math.sqrt(3.0), "uniform noise of ±level dB on every cell"),
}


def perturb(db: np.ndarray, level: float, clips: Sequence[int], *, name: str = "uniform", seed: int = 0) -> np.ndarray:
    """Disturb a batch of dB spectrograms, each clip with a generator of its own.

    A clip's noise depends on the seed and its index alone: every model, every batch size and every level
    meets the same pattern, scaled, so their figures are paired.

    Args:
        db: (clips, bins, frames, channels), the level in dB first; what else is carried stays as it is.
        level: strength, in the perturbation's own meaning; 0 changes nothing.
        clips: index of each clip in its split.
        name: a key of ``PERTURBATIONS``.
        seed: seed of the noise.

    Raises:
        InputError: unknown perturbation, or a level that is negative or not finite.
    """
    if name not in PERTURBATIONS:
        raise InputError(f"unknown perturbation {name!r}: choose one of {', '.join(PERTURBATIONS)}")
    if not (math.isfinite(level) and level >= 0):
        raise InputError(f"a perturbation level is a number of dB, 0 or more; received {level}")
    apply = PERTURBATIONS[name].apply
    disturbed = np.array(db)
    for clip, index in zip(disturbed, clips):
        clip[..., :1] = apply(clip[..., :1], level, np.random.default_rng([seed, index]))
    return disturbed
