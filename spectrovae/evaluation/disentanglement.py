"""Whether the dimensions of a latent are the factors that made the sounds: metrics of latents and factors alone.

Codes are float ``(sounds, dimensions)``, factors ``(sounds, factors)``. A factor, and in MIG a dimension, becomes
levels: its values where they are few, bins of equal counts otherwise. A code is thus not blamed for following log f
instead of f. Every score is 1 at best, and does not change when dimensions change places, sign or scale. Few are 0 for
codes that know nothing: compare with :func:`chance`, and with an untrained encoder.

The protocols are those of Locatello et al., "Challenging Common Assumptions" (2019), with differences that are stated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import rankdata

from spectrovae.errors import InputError
from spectrovae.evaluation.metrics import deviation

BINS = 20
CONSTANT = 1e-7
"""A dimension is a constant, and left out, if its deviation is this part of its largest value (rounding). Others
take part however small: means carry no noise that a threshold must keep out, as samples do (Kim and Mnih: 0.05)."""

METRICS = (
    "beta_vae", "factor_vae", "mig", "sap", "disentanglement", "completeness", "informativeness",
)  # fmt: skip


def scores(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """All metrics, by their names in ``METRICS``.

    Raises:
        InputError: fewer than two factors that vary, unequal lengths, too few sounds, or numbers that are not finite.
    """
    codes, factors = _checked(codes, factors)
    return {
        "beta_vae": beta_vae(codes, factors, seed=seed),
        "factor_vae": factor_vae(codes, factors, seed=seed),
        "mig": mig(codes, factors),
        "sap": sap(codes, factors),
        **dci(codes, factors, seed=seed),
    }


def chance(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """:func:`scores` of the same codes given to the wrong sounds: what they reach knowing nothing."""
    return scores(np.random.default_rng(seed).permutation(codes), factors, seed)


def beta_vae(
    codes: np.ndarray, factors: np.ndarray, *, batch: int = 64, train: int = 5000, test: int = 2500, seed: int = 0
) -> float:
    """Accuracy of a linear classifier that says which factor two sounds share (Higgins et al., 2017).

    A point is the mean of |z - z'| over ``batch`` pairs of sounds that share the value of one factor, which is to be
    told. Dimensions are divided by their standard deviations.
    """
    codes, factors = _checked(codes, factors)
    codes, random = _standardised(codes), np.random.default_rng(seed)
    shared = random.integers(factors.shape[1], size=train + test)
    points = np.empty((train + test, codes.shape[1]))
    for factor in range(factors.shape[1]):
        rows = np.flatnonzero(shared == factor)
        drawer = _Drawer(factors[:, factor], random)
        for part in np.array_split(rows, max(1, len(rows) // 256)):
            first = drawer.any(len(part) * batch)
            difference = np.abs(codes[first] - codes[drawer.like(first)])
            points[part] = difference.reshape(len(part), batch, -1).mean(axis=1)
    classify = logistic_regression(points[:train], shared[:train])
    return float(np.mean(classify(points[train:]) == shared[train:]))


def factor_vae(
    codes: np.ndarray, factors: np.ndarray, *, batch: int = 64, train: int = 5000, test: int = 2500, seed: int = 0
) -> float:
    """Accuracy with which the dimension that varies least tells the factor that is fixed (Kim and Mnih, 2018).

    A vote is the dimension of least variance, relative to its variance over all sounds, among ``batch`` sounds that
    share the value of one factor. Each dimension stands for the factor that it was voted for with most in ``train``
    votes.
    """
    codes, factors = _checked(codes, factors)
    codes, random = _standardised(codes), np.random.default_rng(seed)
    fixed = random.integers(factors.shape[1], size=train + test)
    least = np.zeros(train + test, int)
    for factor in range(factors.shape[1]):
        rows = np.flatnonzero(fixed == factor)
        drawer = _Drawer(factors[:, factor], random)
        for part in np.array_split(rows, max(1, len(rows) // 256)):
            alike = drawer.like(np.repeat(drawer.any(len(part)), batch))
            least[part] = codes[alike].reshape(len(part), batch, -1).var(axis=1).argmin(axis=1)
    votes = np.zeros((codes.shape[1], factors.shape[1]), int)
    np.add.at(votes, (least[:train], fixed[:train]), 1)
    return float(np.mean(votes.argmax(axis=1)[least[train:]] == fixed[train:]))


def mig(codes: np.ndarray, factors: np.ndarray) -> float:
    """Mutual information gap (Chen et al., 2018): by how much the best dimension knows more of a factor than the next.

    Relative to the factor's entropy; the mean over factors. Bins have equal counts, where Locatello et al. have equal
    widths.
    """
    codes, factors = _checked(codes, factors)
    binned = [levels(dimension) for dimension in codes.T]
    gaps = []
    for factor in factors.T:
        information = np.sort([0.0, *(mutual_information(dimension, factor) for dimension in binned)])
        gaps.append((information[-1] - information[-2]) / mutual_information(factor, factor))
    return float(np.mean(gaps))


def sap(codes: np.ndarray, factors: np.ndarray) -> float:
    """Separated attribute predictability (Kumar et al., 2018): the gap between a factor's two best R^2.

    A dimension's R^2 is the squared correlation, as in the paper for factors that are quantities; here of ranks. The
    mean over factors.
    """
    codes, factors = _checked(codes, factors)
    ranks = [rankdata(x, axis=0) - (len(x) + 1) / 2 for x in (codes, factors)]
    unit = [x / np.maximum(np.linalg.norm(x, axis=0), 1e-12) for x in ranks]
    explained = np.vstack([np.zeros(factors.shape[1]), (unit[0].T @ unit[1]) ** 2])
    best = np.sort(explained, axis=0)
    return float(np.mean(best[-1] - best[-2]))


def dci(codes: np.ndarray, factors: np.ndarray, *, rounds: int = 100, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness (Eastwood and Williams, 2018).

    How much each dimension matters to the prediction of each factor: disentanglement is 1 where a dimension matters to
    one factor, completeness where a factor needs one dimension; both are 1 - entropy. Informativeness is the mean R^2
    of the predictions on a fifth of the sounds, kept back. Predictors are :class:`Stumps`: a factor may depend
    on each dimension in any way, their contributions being added.
    """
    codes, factors = _checked(codes, factors)
    order = np.random.default_rng(seed).permutation(len(codes))
    test, train = np.split(order, [max(2, len(codes) // 5)])
    importances, explained = [], []
    for factor in factors.T.astype(np.float64):
        stumps = Stumps(codes[train], factor[train], rounds=rounds)
        importances.append(stumps.importances)
        residual = np.mean((stumps(codes[test]) - factor[test]) ** 2)
        explained.append(max(0.0, 1.0 - residual / max(np.var(factor[test]), 1e-12)))
    matrix = np.stack(importances, axis=1)  # (dimensions, factors)
    weights = matrix.sum(axis=1) / max(matrix.sum(), 1e-12)
    return {
        "disentanglement": float(np.sum(weights * _concentration(matrix))),
        "completeness": float(np.mean(_concentration(matrix.T))),
        "informativeness": float(np.mean(explained)),
    }


def levels(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Numbers as whole levels from 0 [shape=(n,)]: the values' order if at most ``bins``, else equal counts."""
    unique, place = np.unique(values, return_inverse=True)
    if len(unique) <= bins:
        return place.reshape(-1)
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1].reshape(-1)


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Of two whole-numbered variables, in nats, from their counts."""
    joint = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(joint, (first, second), 1.0 / len(first))
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / apart[there])))


def logistic_regression(points: np.ndarray, classes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Multinomial logistic regression, 1/2 |W|^2 added to the summed loss; returns the classifier."""
    d, count = points.shape[1], int(classes.max()) + 1
    target = np.eye(count)[classes]

    def loss(flat):
        weights, bias = flat[:-count].reshape(d, count), flat[-count:]
        logits = points @ weights + bias
        log_sum = logsumexp(logits, axis=1)
        error = np.exp(logits - log_sum[:, None]) - target
        gradient = np.concatenate([(points.T @ error + weights).ravel(), error.sum(axis=0)])
        value = log_sum.sum() - np.sum(logits * target) + 0.5 * np.sum(weights**2)
        return value / len(points), gradient / len(points)

    flat = minimize(loss, np.zeros((d + 1) * count), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    weights, bias = flat[:-count].reshape(d, count), flat[-count:]
    return lambda x: np.argmax(x @ weights + bias, axis=1)


class Stumps:
    """Gradient boosting of trees with one split (Friedman, 2001), for the squared error.

    ``importances`` is how much each column's splits took off the squared error, summing to 1 (or all 0).

    Args:
        rate: the part of each tree that is added.
        bins: places where a column may be split; between any two of its values if those are fewer.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, *, rounds: int = 100, rate: float = 0.3, bins: int = 64):
        n, d = x.shape
        edges = [_edges(column, bins) for column in x.T]
        width = max(map(len, edges)) + 1
        binned = np.stack([np.searchsorted(e, column) for e, column in zip(edges, x.T)])  # (d, n); v <= edge goes left
        cells = (binned + width * np.arange(d)[:, None]).ravel()
        left = np.bincount(cells, minlength=d * width).reshape(d, width).cumsum(axis=1)[:, :-1]
        right = n - left
        splits = (left > 0) & (right > 0)
        self.base, self.importances = float(np.mean(y)), np.zeros(d)
        self.trees: list[tuple[int, float, float, float]] = []
        residual = y - self.base
        if not splits.any():
            return
        for _ in range(rounds):
            sums = np.bincount(cells, np.tile(residual, d), d * width).reshape(d, width).cumsum(axis=1)
            low, whole = sums[:, :-1], sums[:, -1:]
            gain = np.full(low.shape, -np.inf)
            np.divide((low * right - (whole - low) * left) ** 2, n * left * right, out=gain, where=splits)
            column, place = np.unravel_index(np.argmax(gain), gain.shape)
            a = rate * low[column, place] / left[column, place]
            b = rate * (whole[column, 0] - low[column, place]) / right[column, place]
            residual = residual - np.where(binned[column] <= place, a, b)
            self.trees.append((int(column), float(edges[column][place]), float(a), float(b)))
            self.importances[column] += gain[column, place]
        self.importances /= max(self.importances.sum(), 1e-12)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Predictions of rows (n, d)."""
        result = np.full(len(x), self.base)
        for column, edge, a, b in self.trees:
            result += np.where(x[:, column] <= edge, a, b)
        return result


def _edges(column: np.ndarray, bins: int) -> np.ndarray:
    unique = np.unique(column)
    if len(unique) > bins:
        return np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]))
    return (unique[1:] + unique[:-1]) / 2


def _concentration(matrix: np.ndarray) -> np.ndarray:
    """1 - entropy of each row of importances, in units of its largest; 0 for a row that matters to nothing."""
    if matrix.shape[1] == 1:
        return np.ones(len(matrix))
    total = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(total, 1e-12)
    entropy = -np.sum(share * np.log(np.maximum(share, 1e-300)), axis=1) / np.log(matrix.shape[1])
    return np.where(total[:, 0] > 1e-12, 1.0 - entropy, 0.0)


class _Drawer:
    """Draws sounds by number that share a factor's level."""

    def __init__(self, level: np.ndarray, random: np.random.Generator):
        self.level, self.random = level, random
        self.order = np.argsort(level, kind="stable")
        self.counts = np.bincount(level)
        self.starts = np.cumsum(self.counts) - self.counts

    def any(self, count: int) -> np.ndarray:
        """Of a level drawn evenly."""
        return self._of(self.random.integers(len(self.counts), size=count))

    def like(self, rows: np.ndarray) -> np.ndarray:
        """For each sound one of its own level, itself perhaps."""
        return self._of(self.level[rows])

    def _of(self, chosen: np.ndarray) -> np.ndarray:
        return self.order[self.starts[chosen] + self.random.integers(self.counts[chosen])]


def _standardised(codes: np.ndarray) -> np.ndarray:
    """The dimensions that vary, each with a standard deviation of 1; one of zeros where none does."""
    deviation = codes.std(axis=0)
    varies = deviation > CONSTANT * np.abs(codes).max(axis=0)
    return codes[:, varies] / deviation[varies] if varies.any() else np.zeros((len(codes), 1))


def _checked(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes as float64 (n, d), factors as levels (n, k) without those that do not vary."""
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or not codes.shape[1]:
        raise InputError(
            "expected codes (sounds, dimensions) and factors (sounds, factors) of the same sounds, received shapes "
            f"{codes.shape} and {factors.shape}"
        )
    if not np.isfinite(codes).all() or not np.isfinite(factors).all():
        raise InputError("codes and factors must be finite numbers, received NaN or infinity: diagnose the model first")
    if len(codes) < 50:
        raise InputError(f"disentanglement needs at least 50 sounds, received {len(codes)}; take a larger set or split")
    columns = [levels(factor) for factor in factors.T]
    varying = [column for column in columns if column.max() > 0]
    if len(varying) < 2:
        raise InputError(f"disentanglement needs two factors that vary, received {len(varying)}; try toy:additive")
    return codes, np.stack(varying, axis=1)


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation of each metric over runs with different seeds; the deviation of one run is None."""
    return {
        name: {"mean": float(np.mean(values)), "deviation": deviation(values), "runs": values}
        for name in METRICS
        for values in [[run[name] for run in runs]]
    }
