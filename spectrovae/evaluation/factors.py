"""Disentanglement of a model's latent on a toy set, beside an encoder that was never trained and beside chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from spectrovae.errors import InputError
from spectrovae.evaluation import disentanglement, systems

MAX_DIMENSIONS = 1024
"""A latent of more is a map, whose cells nobody expects to be factors."""


def disentangle(
    codec: Any,
    recordings: Any,
    *,
    split: str = "test",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    log: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measure how far the dimensions of a codec's latent are a toy set's factors.

    Args:
        codec: a ``Codec`` with a latent of numbers, which for a VAE is the posterior mean.
        recordings: a toy set of two factors or more, opened at the codec's rate and length.
        seeds: of the metrics' draws, of the untrained weights and of the shuffling for chance; a run for each.

    Returns:
        plain JSON: ``model``, ``untrained`` (the same encoder with random weights) and ``chance`` (the model's codes,
        given to the wrong sounds), each as :func:`spectrovae.evaluation.disentanglement.summary` gives them;
        ``sounds``, ``dimensions``, ``factors``, ``split``, ``seeds``, ``data`` (see ``Recordings.measured``).

    Raises:
        InputError: recordings without known factors, a latent of codes or of too many dimensions, no seed.
    """
    factors = recordings.factors(split)
    data = systems.data_of(recordings, split, [codec], log=log)
    dimensions = sum(int(np.prod(tensor.shape[1:])) for tensor in codec.encoder.outputs)
    if any("int" in str(tensor.dtype) for tensor in codec.encoder.outputs):
        raise InputError(f"{codec.name} encodes to codes; disentanglement is measured on latents of numbers")
    if dimensions > MAX_DIMENSIONS:
        raise InputError(
            f"{codec.name} has a latent of {dimensions} dimensions; disentanglement is measured up to {MAX_DIMENSIONS}"
        )
    if not seeds:
        raise InputError("disentanglement needs at least one seed, received none")
    features = np.concatenate([np.asarray(batch) for batch in recordings.features(split, codec.representation, 64)])
    codes = encode(codec.encoder, features)
    runs: dict[str, list[dict[str, float]]] = {"model": [], "untrained": [], "chance": []}
    for seed in seeds:
        log(f"disentanglement, seed {seed}")
        runs["model"].append(disentanglement.scores(codes, factors, seed))
        untrained = encode(untrained_encoder(codec.encoder, seed), features)
        runs["untrained"].append(disentanglement.scores(untrained, factors, seed))
        runs["chance"].append(disentanglement.chance(codes, factors, seed))
    return {
        **{name: disentanglement.summary(scores) for name, scores in runs.items()},
        "sounds": len(codes),
        "dimensions": dimensions,
        "factors": list(recordings.factor_names),
        "split": split,
        "seeds": list(seeds),
        "data": data,
    }


def encode(encoder: keras.Model, features: np.ndarray) -> np.ndarray:
    """All tensors of the latent side by side: float32 (sounds, dimensions)."""
    parts = keras.tree.flatten(encoder.predict(features, batch_size=64, verbose=0))
    return np.concatenate([np.asarray(part).reshape(len(features), -1) for part in parts], axis=1)


def untrained_encoder(encoder: keras.Model, seed: int) -> keras.Model:
    """The same layers with kernels drawn from N(0, 1 / inputs); the rest as it is before training."""
    fresh = encoder.__class__.from_config(encoder.get_config())
    random = np.random.default_rng(seed)
    for weight in fresh.weights:
        if len(weight.shape) > 1 and "float" in str(weight.dtype):
            inputs = int(np.prod(weight.shape[:-1]))
            weight.assign(random.standard_normal(weight.shape) / np.sqrt(inputs))
    return fresh


def format_disentanglement(result: dict[str, Any]) -> str:
    """A table of the metrics, mean and standard deviation over the seeds."""
    rows = ("model", "untrained", "chance")
    lines = [
        f"{result['sounds']} sounds ({result['split']}), {result['dimensions']} dimensions, "
        f"factors {', '.join(result['factors'])}, {len(result['seeds'])} seeds",
        f"{'':18}" + "".join(f"{row:>16}" for row in rows),
    ]
    for metric in disentanglement.METRICS:
        cells = (result[row][metric] for row in rows)
        lines.append(f"{metric:18}" + "".join(f"{_text(cell):>16}" for cell in cells))
    return "\n".join(lines)


def _text(cell: dict[str, Any]) -> str:
    return f"{cell['mean']:.3f}" + ("" if cell["deviation"] is None else f" ± {cell['deviation']:.3f}")
