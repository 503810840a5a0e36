"""Paired tests against SciPy and Holm's own definition; intervals by cluster."""

import numpy as np
import pytest
import scipy.stats

from spectrovae.evaluation.metrics import Figure, bootstrap
from spectrovae.evaluation.paired import holm, paired_tests


def test_holm_steps_down():
    # By hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).size == 0


def test_pairs_of_models():
    random = np.random.default_rng(0)
    base = random.gamma(4.0, 1.0, 80)
    models = {"a": base, "b": base + random.normal(0.5, 0.5, 80), "same": base.copy()}
    models["b"][:5] = np.nan
    speakers = [f"s{clip % 4}" for clip in range(80)]
    rows = {(r["first"], r["second"]): r for r in paired_tests({"x": models}, clusters=speakers, resamples=500)}
    assert list(rows) == [("a", "b"), ("a", "same"), ("b", "same")]
    worse = rows["a", "b"]
    difference = (models["a"] - models["b"])[5:]
    assert worse["clips"] == 75
    assert worse["difference"] == pytest.approx(difference.mean())
    assert worse["p"] == pytest.approx(scipy.stats.wilcoxon(difference).pvalue)
    assert worse["p_holm"] == pytest.approx(3 * worse["p"])
    assert worse["low"] < worse["difference"] < worse["high"] < 0
    assert worse["speaker_low"] <= worse["difference"] <= worse["speaker_high"]
    assert (rows["a", "same"]["p"], rows["a", "same"]["p_holm"]) == (1.0, 1.0)


def test_nothing_defined_is_no_number():
    (row,) = paired_tests({"x": {"a": np.full(5, np.nan), "b": np.ones(5)}}, resamples=10)
    assert (row["clips"], row["difference"], row["p"], row["p_holm"]) == (0, None, None, None)


def test_a_true_null_is_refused_as_seldom_as_it_should_be():
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        models = {name: random.normal(size=30) for name in "abc"}
        refused += any(row["p_holm"] < 0.05 for row in paired_tests({"x": models}, resamples=2))
    assert refused / 200 < 0.1


def test_clusters_are_resampled_whole():
    """Clips of one speaker that agree are one observation: the interval is that of the speakers' means."""
    random = np.random.default_rng(2)
    means = random.normal(size=12)
    values, speakers = np.repeat(means, 25), np.repeat(np.arange(12), 25)
    found = bootstrap({"m": Figure.mean(values)}, clusters=speakers, seed=1)["m"]
    expected = scipy.stats.bootstrap((means,), np.mean, n_resamples=10_000, method="percentile", random_state=3)
    assert found.value == pytest.approx(means.mean())
    np.testing.assert_allclose(found[1:], expected.confidence_interval, atol=0.02)
    by_clip = bootstrap({"m": Figure.mean(values)}, seed=1)["m"]
    assert by_clip.high - by_clip.low < 0.4 * (found.high - found.low)
