"""Distances between dB spectrograms, kept clip by clip so that their uncertainty is that of the clips.

Spectrograms are ``(clips, bins, frames, channels)`` in dB. ``Errors`` holds sums for each clip; batches are
measured one at a time and concatenated, so a data set of any size is evaluated in the memory of one batch.
Two averages must not be confused:

pooled    the root of the mean squared error over all cells of all clips: the headline RMSE
per clip  each clip's own figure, then the mean over clips: used for the log-spectral distance and the
convergence

Intervals come from resampling clips, or whole speakers, not cells: the cells of one clip are not independent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spectrovae.errors import InputError

ACTIVE_MARGIN_DB = 1.0
"""A cell is active when its reference is more than this above the floor of the representation's range."""

CONVERGENCE_FLOOR_DB = -120.0
"""The best spectral convergence reported: identical spectrograms would give minus infinity."""

_BLOCK = 4_000_000  # numbers drawn at once by the bootstrap: 32 MB


class Estimate(NamedTuple):
    """A figure and its confidence interval, all in the figure's own unit; NaN where nothing was defined."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors of estimated dB spectrograms, one entry a clip, every field ``(clips,)`` float64.

    Attributes:
        squared: sum of squared dB errors over all cells.
        cells: number of cells.
        squared_active: the same sum over active cells only.
        cells_active: number of active cells, 0 for a silent clip.
        lsd: log-spectral distance in dB: mean over frames (and channels) of the RMS over bins.
        lsd_active: the same with the RMS over the active bins of each frame that has one; NaN for a silent
            clip.
    """

    squared: np.ndarray
    cells: np.ndarray
    squared_active: np.ndarray
    cells_active: np.ndarray
    lsd: np.ndarray
    lsd_active: np.ndarray

    @classmethod
    def measure(cls, reference_db: np.ndarray, estimate_db: np.ndarray, floor_db: float) -> Errors:
        """Compare a batch of dB spectrograms with their references.

        Args:
            reference_db: (clips, bins, frames, channels), the level in dB first; phase or sign in further
                channels is not measured.
            estimate_db: the same shape, dB; not clipped to the representation's range.
            floor_db: the bottom of the representation's range: it decides which cells are active.

        Raises:
            InputError: the shapes differ or are not four-dimensional.
        """
        reference = np.asarray(reference_db, np.float64)
        estimate = np.asarray(estimate_db, np.float64)
        if reference.shape != estimate.shape or reference.ndim != 4:
            raise InputError(
                "two dB spectrograms of one shape (clips, bins, frames, channels) are needed; "
                f"received {reference.shape} and {estimate.shape}"
            )
        reference, estimate = level_channel(reference), level_channel(estimate)
        squared = (estimate - reference) ** 2
        active = reference > floor_db + ACTIVE_MARGIN_DB
        squared_active = np.where(active, squared, 0.0)
        bins_active = active.sum(axis=1)
        frame_rms = np.sqrt(squared_active.sum(axis=1) / np.maximum(bins_active, 1))
        cell_axes, frame_axes = (1, 2, 3), (1, 2)
        return cls(
            squared=squared.sum(axis=cell_axes),
            cells=np.full(len(reference), np.prod(reference.shape[1:]), np.float64),
            squared_active=squared_active.sum(axis=cell_axes),
            cells_active=active.sum(axis=cell_axes).astype(np.float64),
            lsd=np.sqrt(squared.mean(axis=1)).mean(axis=frame_axes),
            lsd_active=_ratio(frame_rms.sum(axis=frame_axes), (bins_active > 0).sum(axis=frame_axes)),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Errors]) -> Errors:
        """Join the errors of several batches, in order."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def figures(self) -> dict[str, Figure]:
        """The four headline figures in dB: ``rmse_db`` and ``rmse_active_db`` pooled over cells; ``lsd_db`` and
        ``lsd_active_db`` averaged over clips."""
        return {
            "rmse_db": Figure.pooled_rmse(self.squared, self.cells),
            "rmse_active_db": Figure.pooled_rmse(self.squared_active, self.cells_active),
            "lsd_db": Figure.mean(self.lsd),
            "lsd_active_db": Figure.mean(self.lsd_active),
        }

    def summary(self, **bootstrap_options: Any) -> dict[str, Estimate]:
        """``figures`` with their 95 % intervals; options as for ``bootstrap``."""
        return bootstrap(self.figures(), **bootstrap_options)


def level_channel(db: np.ndarray) -> np.ndarray:
    """(..., channels) -> the level in dB (..., 1), without the phase or sign that a representation carries."""
    return db[..., :1]


def spectral_convergence(reference_db: np.ndarray, estimate_db: np.ndarray) -> np.ndarray:
    """Spectral convergence of magnitudes, 20 log10(|| |S| - |Y| || / || |S| ||), in dB, a figure a clip.

    Frobenius norms over the cells of one clip; lower is better, 0 dB is the score of silence, and nothing
    reads below ``CONVERGENCE_FLOOR_DB``. After Griffin and Lim (1984), normalised as in Sturmel and Daudet
    (2011).

    Args:
        reference_db, estimate_db: (clips, bins, frames, channels), magnitudes in dB, the level first.

    Returns:
        (clips,) float64.
    """
    reference = 10.0 ** (level_channel(np.asarray(reference_db, np.float64)) / 20.0)
    estimate = 10.0 ** (level_channel(np.asarray(estimate_db, np.float64)) / 20.0)
    axes = tuple(range(1, reference.ndim))
    ratio = np.sqrt(((estimate - reference) ** 2).sum(axis=axes) / (reference**2).sum(axis=axes))
    return 20.0 * np.log10(np.maximum(ratio, 10.0 ** (CONVERGENCE_FLOOR_DB / 20.0)))


def cosine_similarity(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Cosine of the angle between two feature tensors, clip by clip; NaN where one of them is all zeros.

    Args:
        reference, estimate: (clips, ...), the same shape.

    Returns:
        (clips,) float64, from -1 to 1.
    """
    x, y = (np.asarray(values, np.float64).reshape(len(values), -1) for values in (reference, estimate))
    return _ratio(np.einsum("ij,ij->i", x, y), np.sqrt(np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y)))


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure that is a function of sums over clips: what the bootstrap can resample without the clips themselves.

    Attributes:
        sums: arrays (clips,), one for each sum.
        statistic: called with the sums, in order; must take arrays. The last sum is the denominator: where it is 0 a
            clip has no value.
    """

    sums: tuple[np.ndarray, ...]
    statistic: Callable[..., np.ndarray]

    @classmethod
    def mean(cls, values: np.ndarray) -> Figure:
        """Mean over the clips whose value (clips,) is not NaN."""
        values = np.asarray(values, np.float64)
        defined = ~np.isnan(values)
        return cls((np.where(defined, values, 0.0), defined.astype(np.float64)), _ratio)

    @classmethod
    def pooled_rmse(cls, squared: np.ndarray, cells: np.ndarray) -> Figure:
        """Root of the mean squared error over all cells of all clips.

        Args:
            squared: (clips,) sums of squared errors.
            cells: (clips,) numbers of cells summed.
        """
        return cls((squared, cells), _root_ratio)


def mean(values: np.ndarray, **bootstrap_options: Any) -> Estimate:
    """Mean over clips with its interval; clips whose value is NaN (undefined) are left out.

    Args:
        values: (clips,).
        bootstrap_options: ``resamples``, ``confidence``, ``seed`` and ``clusters`` of ``bootstrap``.
    """
    return bootstrap({0: Figure.mean(values)}, **bootstrap_options)[0]


def pooled_rmse(squared: np.ndarray, cells: np.ndarray, **bootstrap_options: Any) -> Estimate:
    """``Figure.pooled_rmse`` with its interval over clips; clips without a cell count for nothing.

    Args:
        bootstrap_options: as for ``mean``.
    """
    return bootstrap({0: Figure.pooled_rmse(squared, cells)}, **bootstrap_options)[0]


def rmse_ratio(numerator: np.ndarray, denominator: np.ndarray, **bootstrap_options: Any) -> Estimate:
    """Ratio of two pooled RMSEs over the same cells, paired by clip; NaN where the denominator is 0.

    Args:
        numerator, denominator: (clips,) sums of squared errors.
        bootstrap_options: as for ``mean``.
    """
    return bootstrap({0: Figure((numerator, denominator), _root_ratio)}, **bootstrap_options)[0]


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of what a few numbers are drawn from (divided by n - 1); None for a single number."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def bootstrap(
    figures: Mapping[Any, Figure],
    *,
    clusters: Sequence[Any] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[Any, Estimate]:
    """Percentile bootstrap of any number of figures of the same clips, over clips or over clusters of them.

    A resample of n clips with replacement is n multinomial counts, and the sums over the resample are a product of
    those counts with the table of values: no clip is copied, and all figures share one pass. The same seed and number
    of clips give the same resamples, so that figures of several models are paired.

    Args:
        figures: by any key.
        clusters: a label for each clip, such as its speaker: whole clusters are resampled, so that the interval speaks
            for other speakers. With a handful of clusters it is too narrow.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval, between 0 and 1.
        seed: seed of the resampling.

    Returns:
        By key, the figure of the clips themselves and the ends of its interval; NaN where it is not defined, the ends
        also where fewer than two clips, or clusters, have a value: one tells nothing of others.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; clusters: Davison and Hinkley,
    Bootstrap Methods and their Application (1997), section 3.8.
    """
    if not figures:
        return {}
    columns = [np.asarray(values, np.float64) for figure in figures.values() for values in figure.sums]
    table = np.stack(columns, axis=1)
    totals, draws = table.sum(axis=0), np.full((1, table.shape[1]), np.nan)
    if clusters is not None:
        table = _summed(table, clusters)
    if len(table):
        draws = np.concatenate([counts @ table for counts in resampled(len(table), resamples, seed)])
    tail, place, estimates = 50.0 * (1.0 - confidence), 0, {}
    for key, figure in figures.items():
        own = slice(place, place := place + len(figure.sums))
        value, drawn = figure.statistic(*totals[own]), figure.statistic(*draws[:, own].T)
        drawn = drawn[~np.isnan(drawn)]
        enough = np.count_nonzero(table[:, own.stop - 1]) > 1 and drawn.size and not np.isnan(value)
        ends = np.percentile(drawn, [tail, 100.0 - tail]) if enough else (np.nan, np.nan)
        estimates[key] = Estimate(float(value), float(ends[0]), float(ends[1]))
    return estimates


def resampled(clips: int, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """Give how often each clip occurs in each resample, (block, clips), in blocks of bounded size."""
    if clips * resamples <= _BLOCK:
        return [_counts(clips, resamples, seed)]
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // clips)
    sizes = (min(block, resamples - start) for start in range(0, resamples, block))
    return (random.multinomial(clips, np.full(clips, 1.0 / clips), size=size).astype(np.float64) for size in sizes)


@functools.lru_cache(maxsize=2)
def _counts(clips: int, resamples: int, seed: int) -> np.ndarray:
    """The counts of a small set in one block, kept: a table asks for the same ones many times."""
    random = np.random.default_rng(seed)
    return random.multinomial(clips, np.full(clips, 1.0 / clips), size=resamples).astype(np.float64)


def _summed(table: np.ndarray, clusters: Sequence[Any]) -> np.ndarray:
    """Sums of the rows of each cluster."""
    labels, rows = np.unique(np.asarray(clusters), return_inverse=True)
    total = np.zeros((len(labels), table.shape[1]))
    np.add.at(total, rows, table)
    return total


def _root_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.sqrt(_ratio(numerator, denominator))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide where the denominator is positive; NaN elsewhere."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
