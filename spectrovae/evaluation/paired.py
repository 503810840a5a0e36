"""Is one model better than another, or did the clips fall so? Paired tests, corrected for their number."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from spectrovae.evaluation.metrics import Figure, bootstrap


def paired_tests(
    values: Mapping[Any, Mapping[str, np.ndarray]],
    *,
    clusters: Sequence[Any] | None = None,
    **bootstrap_options: Any,
) -> list[dict[str, Any]]:
    """Compare every two models, figure by figure, on the clips where both are defined.

    Args:
        values: by figure (any key), by model: a value a clip, (clips,), NaN where undefined.
        clusters: a label for each clip, such as its speaker, for a second interval.
        bootstrap_options: ``resamples``, ``confidence`` and ``seed`` of ``bootstrap``.

    Returns:
        A row for each figure and pair: ``figure``, ``first``, ``second``, ``clips``, the mean ``difference`` (first
        less second) with the ends of its interval over clips (``low``, ``high``) and, with clusters, over those
        (``speaker_low``, ``speaker_high``), ``p`` of Wilcoxon's signed-rank test (two-sided, over clips, zeros split
        between the signs) and ``p_holm``, corrected for the number of pairs of that figure. None where no clip is
        defined.

    Source: Wilcoxon (1945); Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    differences = {
        (figure, first, second): np.subtract(models[first], models[second], dtype=np.float64)
        for figure, models in values.items()
        for first, second in itertools.combinations(models, 2)
    }
    figures = {key: Figure.mean(difference) for key, difference in differences.items()}
    by_clip = bootstrap(figures, **bootstrap_options)
    by_cluster = bootstrap(figures, clusters=clusters, **bootstrap_options) if clusters is not None else {}
    p = {key: _wilcoxon(difference) for key, difference in differences.items()}
    corrected: dict[Any, float] = {}
    for name in values:
        tested = [key for key in p if key[0] == name and not np.isnan(p[key])]
        corrected |= dict(zip(tested, holm([p[key] for key in tested])))
    rows = []
    for key, difference in differences.items():
        row: dict[str, Any] = dict(zip(("figure", "first", "second"), key))
        row["clips"] = int(np.sum(~np.isnan(difference)))
        numbers = dict(zip(("difference", "low", "high"), by_clip[key]))
        if by_cluster:
            numbers |= {"speaker_low": by_cluster[key].low, "speaker_high": by_cluster[key].high}
        numbers |= {"p": p[key], "p_holm": corrected.get(key, np.nan)}
        rows.append(row | {name: float(x) if np.isfinite(x) else None for name, x in numbers.items()})
    return rows


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method, in the order given."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _wilcoxon(difference: np.ndarray) -> float:
    defined = difference[~np.isnan(difference)]
    if not defined.size:
        return np.nan
    if not defined.any():
        return 1.0
    return float(scipy.stats.wilcoxon(defined, zero_method="zsplit").pvalue)
