"""How much a latent tells of who speaks: how well a small classifier names the speaker from it, beside chance.

A linear classifier is a lower bound: what it does not find a larger one might.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import tree

from spectrovae.errors import InputError
from spectrovae.evaluation.disentanglement import logistic_regression

BATCH_SIZE = 64
VARIES = 1e-6
"""Dimensions with a smaller standard deviation say nothing, and are left out."""


def speaker_leak(codec: Any, recordings: Any, split: str = "validation") -> dict[str, Any]:
    """Train the classifier on the training split's latents, and ask it about those of another.

    Args:
        codec: with speakers.
        recordings: at its rate and length.
        split: whose clips are asked about; clips of others than the codec's speakers are left out.

    Returns:
        Plain JSON: ``accuracy``, ``chance`` (always naming the most frequent), ``clips``, ``split``, ``speakers`` (how
        many). Empty where no clip is left.
    """
    parts = []
    for name in ("train", split):
        points = np.concatenate([
            points_of(codec, np.asarray(batch))
            for batch in recordings.features(name, codec.representation, BATCH_SIZE)
        ])  # fmt: skip
        places = recordings.places(name, codec.speakers)
        known = places < len(codec.speakers)
        parts.append((points[known], places[known]))
    if not len(parts[1][0]):
        return {}
    return classified(*parts[0], *parts[1]) | {"split": split, "speakers": len(codec.speakers)}


def points_of(codec: Any, features: np.ndarray) -> np.ndarray:
    """Latents of features (clips, bins, frames, channels) as vectors (clips, dimensions).

    Of codes: how often each is there, wherever it is, beside the vectors that they stand for, each in its place.
    """
    latents = [np.asarray(part) for part in tree.flatten(codec.encoder(features))]
    if codec.quantiser is None:
        return np.concatenate([part.reshape(len(part), -1) for part in latents], axis=1)
    (codes,) = latents
    size, stages = codec.quantiser.codebook_size, codec.quantiser.stages
    tokens = codes.reshape(len(codes), -1, stages) + size * np.arange(stages)
    counts = np.zeros((len(codes), size * stages), np.float32)
    for row, own in enumerate(tokens):
        counts[row] = np.bincount(own.ravel(), minlength=size * stages)
    vectors = np.asarray(codec.quantiser.lookup(codes)).reshape(len(codes), -1)
    return np.concatenate([np.sqrt(counts), vectors], axis=1)


def classified(train: np.ndarray, classes: np.ndarray, test: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Accuracy on ``test`` of multinomial logistic regression fitted to ``train``, both (clips, dimensions).

    Raises:
        InputError: no clips to learn from.
    """
    if not len(train):
        raise InputError("a leak is measured by what training clips teach, received none of a known speaker")
    deviation = train.std(axis=0, dtype=np.float64)
    varies = deviation > VARIES
    if varies.any():
        mean = train[:, varies].mean(axis=0, dtype=np.float64)
        classify = logistic_regression((train[:, varies] - mean) / deviation[varies], classes)
        answers = classify((test[:, varies] - mean) / deviation[varies])
    else:
        answers = np.full(len(test), np.bincount(classes).argmax())
    return {
        "accuracy": float(np.mean(answers == truth)),
        "chance": float(np.bincount(truth).max() / len(truth)),
        "clips": len(truth),
    }
