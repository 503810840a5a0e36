"""Fit a mixture of Gaussians to latents by expectation and maximisation, and choose its size on other latents."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture as ScikitMixture

from spectrovae.errors import InputError
from spectrovae.models import GaussianMixture
from spectrovae.models.mixture import PRESETS

SHARES = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0)  # of the components' common covariance in each one's own
RIDGE = 1e-3  # added to each variance, as a share of the mean variance

Classes = Mapping[str, np.ndarray]


def fit_mixture(
    latents: np.ndarray,
    classes: Classes,
    held: np.ndarray,
    held_classes: Classes,
    *,
    preset: str = "small",
    seed: int = 0,
    log: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> GaussianMixture:
    """The mixture of lowest negative log-likelihood on ``held``, among several sizes and covariances.

    Where there are conditions, components are fitted to the examples of each combination of classes, so that a
    condition chooses among them; otherwise to all examples together. A few examples do not determine a covariance of
    many dimensions: each component's is mixed with what all have in common.

    Args:
        latents, held: [shape=(examples, *latent_shape)].
        classes, held_classes: class of each example by condition [shape=(examples,)].
        preset: bounds the number of components, of each combination where there are conditions.
        options: of :class:`GaussianMixture`; ``conditions`` among them.
    """
    x = np.asarray(latents, np.float64).reshape(len(latents), -1)
    groups = _groups(classes, len(x))
    most = PRESETS[preset] if len(groups) == 1 else max(1, PRESETS[preset] // 4)
    best: tuple[float, Any] = (np.inf, None)
    count = 1
    while count <= most:
        fitted = [_components(x[rows], count, seed) for rows in groups]
        members = [rows[own] for rows, parts in zip(groups, fitted) for own in parts]
        members = [rows for rows in members if len(rows)]
        tables = {name: _table(classes[name], len(names), members) for name, names in _named(options).items()}
        means = np.stack([x[rows].mean(axis=0) for rows in members])
        weights = np.array([len(rows) for rows in members], np.float64) / len(x)
        own = np.stack([_scatter(x[rows], mean) for rows, mean in zip(members, means)])
        common = np.tensordot(weights, own, axes=1)
        ridge = RIDGE * max(float(np.mean(np.diag(common))), 1e-9) * np.eye(x.shape[1])
        prior = GaussianMixture(latents.shape[1:], preset=preset, components=len(members), seed=seed, **options)
        for share in SHARES:
            covariances = share * common + (1.0 - share) * own + ridge
            if prior.covariance == "diagonal":
                covariances = np.diagonal(covariances, axis1=1, axis2=2)
            prior.set_mixture(weights, means, covariances, tables)
            nats = mean_nll(prior, held, held_classes)
            if nats < best[0]:
                chosen = prior.get_weights()
                best = (nats, (prior, chosen))
                log(f"{len(members)} components, {share:.0%} of the covariance in common: validation {nats:.2f} nats")
        count *= 2
    if best[1] is None:
        raise InputError("no mixture has a finite likelihood on the validation latents; are they finite numbers?")
    prior, chosen = best[1]
    prior.set_weights(chosen)
    return prior


def mean_nll(prior, latents: np.ndarray, classes: Classes, rows: int = 256) -> float:
    """Mean negative log-likelihood in nats an example, in batches of ``rows``."""
    total = 0.0
    for start in range(0, len(latents), rows):
        part = slice(start, start + rows)
        given = {name: classes[name][part] for name in prior.conditions}
        total += float(np.sum(np.asarray(prior.nll(latents[part], given), np.float64)))
    return total / len(latents)


def _named(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return options.get("conditions") or {}


def _groups(classes: Classes, count: int) -> list[np.ndarray]:
    """Rows of each combination of classes."""
    if not classes:
        return [np.arange(count)]
    _, group = np.unique(np.stack(list(classes.values()), axis=1), axis=0, return_inverse=True)
    return [np.flatnonzero(group.ravel() == number) for number in range(group.max() + 1)]


def _components(x: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Rows of each of at most ``count`` components."""
    count = min(count, max(1, len(x) // 8))
    if count == 1:
        return [np.arange(len(x))]
    # Spherical: what tells clusters apart with few examples; covariances are estimated from all members after it.
    chosen = ScikitMixture(count, covariance_type="spherical", random_state=seed, reg_covar=1e-4).fit_predict(x)
    return [np.flatnonzero(chosen == number) for number in range(count)]


def _scatter(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return (x - mean).T @ (x - mean) / len(x)


def _table(index: np.ndarray, names: int, members: list[np.ndarray]) -> np.ndarray:
    """Probability of each class in each component [shape=(names, components)]."""
    return np.stack([np.bincount(index[rows], minlength=names)[:names] / len(rows) for rows in members], axis=1)
