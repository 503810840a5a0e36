"""How the codes of a codebook are used."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spectrovae.errors import InputError
from spectrovae.models.base import layers_of
from spectrovae.quantisers import Quantiser

ABOVE_FLOOR = 1e-3
"""A token is active when a cell of its patch is this far from the floor: 0.08 dB of a range of 80 dB."""


class CodeCounts:
    """How often each code is used, over all tokens and over active ones, by stage; maps (clips, h, w[, stages]).

    A token is active when its patch of the features rises above the floor somewhere: silence repeats a few codes, and
    hides how the rest are used. ``result()`` has ``codebook_size``, ``tokens_per_clip``, ``nominal_bits_per_clip``, and
    ``stages``, each with ``all`` and ``active`` tokens: ``tokens``, ``used`` codes, ``usage`` (their part of the
    codebook), ``perplexity`` (exp of the entropy), ``bits`` a token (the entropy).
    """

    def __init__(self, codebook_size: int, shape: tuple[int, ...], padded: tuple[int, int], floor: Any = 0.0):
        self.size, self.floor, self.padded = int(codebook_size), floor, padded
        self.grid, self.stages = shape[:2], shape[2] if len(shape) > 2 else 1
        self.counts = np.zeros((2, self.stages, self.size), np.int64)  # all, active

    @classmethod
    def of(cls, encoder: keras.Model, floor: Any = 0.0) -> CodeCounts:
        """For an encoder with a layer ``quantiser``; where it pads its input (layer ``pad``), patches are of that."""
        padded = next((layer.output.shape for layer in encoder.layers if layer.name == "pad"), encoder.inputs[0].shape)
        quantiser = layers_of(encoder, Quantiser)[0]
        return cls(quantiser.codebook_size, encoder.outputs[0].shape[1:], padded[1:3], floor)

    def add(self, codes: np.ndarray, features) -> None:
        codes = codes.reshape(-1, self.stages)
        active = self.active_tokens(np.asarray(features)).ravel()
        offsets = np.arange(self.stages) * self.size
        for row, chosen in enumerate((codes, codes[active])):
            counts = np.bincount((chosen + offsets).ravel(), minlength=self.stages * self.size)
            self.counts[row] += counts.reshape(self.stages, self.size)

    def active_tokens(self, features: np.ndarray) -> np.ndarray:
        """Booleans (clips, h, w): whether a cell of the token's patch is above the floor."""
        above = np.any(np.abs(features[..., :1] - self.floor) > ABOVE_FLOOR, axis=-1)
        missing = [(0, whole - size) for whole, size in zip(self.padded, above.shape[1:])]
        above = np.pad(above, [(0, 0), *missing])
        (height, width), (rows, columns) = above.shape[1:], self.grid
        if height % rows or width % columns:
            raise InputError(f"a map of {self.grid} codes does not divide features padded to {(height, width)}")
        patches = above.reshape(len(above), rows, height // rows, columns, width // columns)
        return np.any(patches, axis=(2, 4))

    def result(self) -> dict[str, Any]:
        tokens = int(np.prod(self.grid))
        return {
            "codebook_size": self.size,
            "tokens_per_clip": tokens,
            "nominal_bits_per_clip": float(tokens * self.stages * np.log2(self.size)),
            "stages": [
                {"all": code_figures(counts), "active": code_figures(active)} for counts, active in zip(*self.counts)
            ],
        }


def code_figures(counts: np.ndarray) -> dict[str, Any]:
    """Usage of a codebook from how often each code was chosen."""
    total = counts.sum()
    share = counts[counts > 0] / max(total, 1)
    entropy = float(-np.sum(share * np.log(share)))
    used = int(np.count_nonzero(counts))
    return {
        "tokens": int(total),
        "used": used,
        "usage": used / len(counts),
        "perplexity": float(np.exp(entropy)) if total else 0.0,
        "bits": entropy / float(np.log(2.0)),
    }
