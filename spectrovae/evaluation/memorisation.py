"""Is a drawn sound new, or a training clip again? Distances to the nearest training clip, beside those of test clips.

Held-out clips are new for certain, and from the same source: sounds that lie nearer to training clips than they do were
copied, at least in part; sounds that lie much farther away are unlike real ones. (Meehan, Chaudhuri and Dasgupta, "A
non-parametric test to detect data-copying in generative models", 2020, ask the same question as a test.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from spectrovae.errors import InputError

NEAR = 0.01
"""A sound counts as near where this share of the held-out clips is nearer still."""


def nearest(sounds: np.ndarray, training: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each vector to the nearest training vector, and which that is.

    Args:
        sounds: [shape=(sounds, d)].
        training: batches [shape=(clips, d)], gone through once, so that they need not be held together.

    Returns:
        Root mean squared difference over the d numbers [shape=(sounds,)], places in training's order [shape=(sounds,)].

    Raises:
        InputError: no training clips, or vectors of another length.
    """
    sounds = np.asarray(sounds, np.float64)
    squares = np.sum(sounds**2, 1)[:, None]
    least, place, seen = np.full(len(sounds), np.inf), np.zeros(len(sounds), int), 0
    for batch in training:
        batch = np.asarray(batch, np.float64)
        if batch.shape[1:] != sounds.shape[1:]:
            raise InputError(f"vectors of one length are needed; received {sounds.shape} and {batch.shape}")
        squared = squares + np.sum(batch**2, 1) - 2.0 * sounds @ batch.T
        here = squared.argmin(axis=1)
        nearer = squared[np.arange(len(sounds)), here] < least
        least = np.where(nearer, squared[np.arange(len(sounds)), here], least)
        place = np.where(nearer, seen + here, place)
        seen += len(batch)
    if not seen:
        raise InputError("no training clips to compare with")
    return np.sqrt(np.maximum(least, 0.0) / sounds.shape[1]), place


def memorisation(drawn: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Compare the distances of drawn sounds with those of held-out clips, as :func:`nearest` gives them.

    Returns:
        Medians, their ``ratio`` (1: as near as new recordings are; well below 1: copies), and the share of drawn sounds
        that are ``near``, nearer than all but one in a hundred held-out clips.
    """
    border = float(np.quantile(held_out, NEAR))
    median, usual = float(np.median(drawn)), float(np.median(held_out))
    return {
        "median": median,
        "held_out_median": usual,
        "ratio": median / usual if usual > 0.0 else None,
        "near": float(np.mean(drawn < border)),
        "near_border": border,
    }
