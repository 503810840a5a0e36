"""Distances between dB spectrograms, kept clip by clip so that their uncertainty is that of the clips.

Spectrograms are ``(clips, bins, frames, channels)`` in dB. ``Errors`` holds sums for each clip; batches are
measured one at a time and concatenated, so a data set of any size is evaluated in the memory of one batch.
Two averages must not be confused:

pooled    the root of the mean squared error over all cells of all clips: the headline RMSE
per clip  each clip's own figure, then the mean over clips: used for the log-spectral distance and the
convergence

Intervals come from resampling clips, not cells: the cells of one clip are not independent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
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

    def summary(self, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Estimate]:
        """Return the four headline figures in dB, each with its 95 % interval.

        Returns:
            ``rmse_db`` and ``rmse_active_db`` pooled over cells; ``lsd_db`` and ``lsd_active_db`` averaged
            over clips.
        """
        options: dict[str, int] = {"resamples": resamples, "seed": seed}
        return {
            "rmse_db": pooled_rmse(self.squared, self.cells, **options),
            "rmse_active_db": pooled_rmse(self.squared_active, self.cells_active, **options),
            "lsd_db": mean(self.lsd, **options),
            "lsd_active_db": mean(self.lsd_active, **options),
        }


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


def mean(values: np.ndarray, **bootstrap_options: Any) -> Estimate:
    """Mean over clips with its interval; clips whose value is NaN (undefined) are left out.

    Args:
        values: (clips,).
        bootstrap_options: ``resamples``, ``confidence`` and ``seed`` of ``bootstrap``.
    """
    values = np.asarray(values, np.float64)
    return bootstrap([values[~np.isnan(values)]], lambda total, clips: total / clips, **bootstrap_options)


def pooled_rmse(squared: np.ndarray, cells: np.ndarray, **bootstrap_options: Any) -> Estimate:
    """Root of the mean squared error over all cells of all clips, with its interval over clips.

    Args:
        squared: (clips,) sums of squared errors.
        cells: (clips,) numbers of cells summed; clips with none are left out.
        bootstrap_options: as for ``mean``.
    """
    kept = np.asarray(cells) > 0
    sums = [np.asarray(squared, np.float64)[kept], np.asarray(cells, np.float64)[kept]]
    return bootstrap(sums, lambda error, count, _: np.sqrt(error / count), **bootstrap_options)


def rmse_ratio(numerator: np.ndarray, denominator: np.ndarray, **bootstrap_options: Any) -> Estimate:
    """Ratio of two pooled RMSEs over the same cells, paired by clip; NaN where the denominator is 0.

    Args:
        numerator, denominator: (clips,) sums of squared errors.
        bootstrap_options: as for ``mean``.
    """
    sums = [np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)]
    if not np.any(sums[1] > 0):
        return Estimate(np.nan, np.nan, np.nan)
    return bootstrap(sums, lambda above, below, _: np.sqrt(_ratio(above, below)), **bootstrap_options)


def bootstrap(
    values: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap over clips of a statistic that is a function of sums over clips.

    A resample of n clips with replacement is n multinomial counts, and a sum over the resample is a product
    of those counts with the values: no clip is copied. The same seed and number of clips give the same
    resamples, so figures of several models on the same clips are paired.

    Args:
        values: arrays of shape (clips,), one for each sum the statistic needs.
        statistic: called with the sums, in order, and then the number of clips; must take arrays.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval, between 0 and 1.
        seed: seed of the resampling.

    Returns:
        The statistic of the clips themselves and the ends of its interval; all NaN without a clip.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    table = np.stack([np.asarray(value, np.float64) for value in values], axis=1)
    clips = len(table)
    if clips == 0:
        return Estimate(np.nan, np.nan, np.nan)
    draws = [statistic(*(counts @ table).T, clips) for counts in _resampled(clips, resamples, seed)]
    tail = 50.0 * (1.0 - confidence)
    low, high = np.nanpercentile(np.concatenate(draws), [tail, 100.0 - tail])
    return Estimate(float(statistic(*table.sum(axis=0), clips)), float(low), float(high))


def _resampled(clips: int, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """Give how often each clip occurs in each resample, (block, clips), in blocks of bounded size."""
    if clips * resamples <= _BLOCK:
        return [_counts(clips, resamples, seed)]
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // clips)
    sizes = (min(block, resamples - start) for start in range(0, resamples, block))
    return (random.multinomial(clips, np.full(clips, 1.0 / clips), size=size) for size in sizes)


@functools.lru_cache(maxsize=2)
def _counts(clips: int, resamples: int, seed: int) -> np.ndarray:
    """The counts of a small set in one block, kept: a table asks for the same ones hundreds of times."""
    random = np.random.default_rng(seed)
    return random.multinomial(clips, np.full(clips, 1.0 / clips), size=resamples).astype(np.float64)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide where the denominator is positive; NaN elsewhere."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
