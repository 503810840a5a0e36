"""Rate and distortion: how much a model's latent carries, in bits a clip, beside the error it leaves.

Three families, one axis. A *posterior* carries its KL divergence from the prior, which bits-back coding attains (Hinton
and van Camp, 1993). *Codes* carry log2 K each, as they stand in a file. Numbers without a posterior, of an autoencoder
or a U-Net, could carry anything; what they do carry is measured by noise: Gaussian noise, the same part of each
tensor's deviation, is added to the latent until the error grows by ``TOLERANCE``, and a number of variance v under
noise of variance n is worth log2(1 + v / n) / 2 bits, the capacity of that channel (Shannon, 1949).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae import losses
from spectrovae.models.base import layers_of, posteriors_of, sigma_of
from spectrovae.quantisers import Quantiser

TOLERANCE = 0.05
"""The noise on a latent without a posterior is the most that raises the error by this part."""
_STEPS = 14


def rate_distortion(
    codec: Any, features: np.ndarray, statistics: np.ndarray | None = None, *, seed: int = 0, batch_size: int = 64
) -> dict[str, Any]:
    """What the latent of some clips carries and the error it leaves.

    Args:
        codec: a codec.
        features: (clips, bins, frames, channels), as its encoder takes them.
        statistics: of the clips, under ``"per_example"`` (:meth:`Representation.statistics`).
        seed: of the noise.

    Returns:
        ``bits``, a clip; ``kind``, "posterior", "codes" or "noise", how they were counted; ``numbers`` in a clip's
        latent; ``bound_nats``, of a model with a posterior and a calibrated sigma, the negative ELBO of a clip with one
        draw of its latent; ``distortion_db``, the RMSE of the level in dB at this rate: of a drawn latent for a
        posterior, of the noisy one for "noise".
    """
    rows = [slice(start, start + batch_size) for start in range(0, len(features), batch_size)]
    parts = [features[own] for own in rows]
    known = [() if statistics is None else (statistics[own],) for own in rows]
    random = np.random.default_rng(seed)

    def decode(latent: list[np.ndarray]):
        return codec.decoder(codec.pack([tf.convert_to_tensor(z) for z in latent]))

    def distortion(latents: list[list[np.ndarray]]) -> float:
        squared, cells = 0.0, 0
        for part, own, latent in zip(parts, known, latents):
            decoded = decode(latent)
            before, after = (np.asarray(codec.representation.to_db(x, *own))[..., 0] for x in (part, decoded))
            squared += float(np.sum(np.square(after - before, dtype=np.float64)))
            cells += before.size  # of a spectrogram, where features are samples
        return math.sqrt(squared / cells)

    numbers = sum(math.prod(shape) for shape in codec.latent_shapes)
    posteriors = posteriors_of(codec.encoder)
    if posteriors is not None:
        nats, latents = 0.0, []
        for part in parts:
            means, deviations, divergence = _moments(posteriors(part))
            nats += divergence
            latents.append([_drawn(*pair, random) for pair in zip(means, deviations)])
        found = {
            "kind": "posterior",
            "bits": nats / math.log(2.0) / len(features),
            "numbers": numbers,
            "distortion_db": distortion(latents),
        }
        sigma = sigma_of(codec.decoder)
        if sigma is not None:
            log_sigma = np.log(sigma)
            pairs = zip(parts, latents)
            nats += sum(float(tf.reduce_sum(losses.calibrated_nll(x, decode(z), log_sigma))) for x, z in pairs)
            found["bound_nats"] = nats / len(features)
        return found
    latents = [[np.asarray(z) for z in tf.nest.flatten(codec.encoder(part))] for part in parts]
    if any(kind.is_integer for kind in codec.latent_types):
        size = layers_of(codec.encoder, Quantiser)[0].codebook_size
        return {
            "kind": "codes",
            "bits": numbers * math.log2(size),
            "numbers": numbers,
            "distortion_db": distortion(latents),
        }
    return {"kind": "noise", "numbers": numbers} | _by_noise(latents, distortion, random)


def _by_noise(latents: list[list[np.ndarray]], distortion, random: np.random.Generator) -> dict[str, Any]:
    """Bits and distortion at the largest noise that is tolerated, by bisection on its logarithm."""
    variances = [np.var(np.concatenate(group), axis=0, dtype=np.float64) for group in zip(*latents)]
    # Positions of a map share the variance of their channel: single ones have too few clips behind them.
    variances = [np.broadcast_to(v.mean(axis=tuple(range(v.ndim - 1))), v.shape) for v in variances]
    deviations = [math.sqrt(v.mean()) for v in variances]
    noise = [[random.standard_normal(z.shape, np.float32) for z in latent] for latent in latents]

    def noisy(ratio: float) -> float:
        pairs = zip(latents, noise)
        return distortion([[z + np.float32(ratio * d) * n for z, n, d in zip(*pair, deviations)] for pair in pairs])

    limit = (1.0 + TOLERANCE) * distortion(latents)
    low, high, found = math.log(1e-5), math.log(10.0), float("nan")
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        error = noisy(math.exp(middle))
        low, high, found = (middle, high, error) if error <= limit else (low, middle, found)
    ratio = math.exp(low)
    bits = sum(
        float(np.sum(0.5 * np.log2(1.0 + v / (ratio * d) ** 2))) for v, d in zip(variances, deviations) if d > 0.0
    )
    return {"bits": bits, "distortion_db": noisy(ratio) if math.isnan(found) else found}


def gaussian_bound(spectrum: np.ndarray, cells: int, db_per_unit: float, bits: np.ndarray) -> np.ndarray:
    """The least RMSE in dB of any code of so many bits a clip, were clips Gaussian with this covariance.

    Reverse water-filling (Cover and Thomas, 2006, theorem 10.3.3): a direction of variance v above the water level w
    costs log2(v / w) / 2 bits and leaves w, the others cost nothing and leave all of theirs.

    Args:
        spectrum: variances along the principal directions, in squared units of a feature.
        cells: cells of a clip.
        db_per_unit: dB that a unit is worth.
        bits: the rates.

    Returns:
        RMSE in dB at each rate, same shape as ``bits``.
    """
    values = np.sort(np.asarray(spectrum, np.float64)[np.asarray(spectrum) > 0.0])[::-1]
    levels = np.geomspace(values[-1], values[0], 400)
    rates = [0.5 * np.sum(np.log2(values[values > level] / level)) for level in levels]
    left = [np.sum(np.minimum(values, level)) for level in levels]
    squared = np.interp(bits, rates[::-1], left[::-1])
    return db_per_unit * np.sqrt(squared / cells)


def _moments(moments) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Means and standard deviations of the groups, and the nats of their divergence from the prior, summed."""
    nats = sum(float(tf.reduce_sum(losses.kl_divergence(mean, v))) for mean, v in zip(*moments))
    means, log_variances = ([np.asarray(x) for x in group] for group in moments)
    return means, [np.exp(0.5 * v) for v in log_variances], nats


def _drawn(mean: np.ndarray, deviation: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return mean + deviation * random.standard_normal(mean.shape, np.float32)
