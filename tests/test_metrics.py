"""The distances against loops and closed forms; the bootstrap against SciPy's."""

import numpy as np
import pytest
import scipy.stats

from spectrovae.errors import InputError
from spectrovae.evaluation import metrics
from spectrovae.evaluation.metrics import Errors

FLOOR = -80.0


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    reference = np.maximum(random.uniform(-110, 0, (5, 6, 7, 2)), FLOOR)
    return reference, reference + random.normal(0, 4, reference.shape)


def naive(reference, estimate):
    """RMSE and LSD over all and over active cells, one cell at a time."""
    errors, active_errors, lsd, lsd_active = [], [], [], []
    for clip in range(len(reference)):
        frames, active_frames = [], []
        for channel in range(reference.shape[3]):
            for frame in range(reference.shape[2]):
                column, active = [], []
                for bin_ in range(reference.shape[1]):
                    place = (clip, bin_, frame, channel)
                    error = (estimate[place] - reference[place]) ** 2
                    column.append(error)
                    if reference[place] > FLOOR + 1.0:
                        active.append(error)
                frames.append(np.sqrt(np.mean(column)))
                if active:
                    active_frames.append(np.sqrt(np.mean(active)))
                errors += column
                active_errors += active
        lsd.append(np.mean(frames))
        lsd_active.append(np.mean(active_frames))
    return np.sqrt(np.mean(errors)), np.sqrt(np.mean(active_errors)), np.mean(lsd), np.mean(lsd_active)


def test_errors_equal_loops_over_cells(pair):
    summary = Errors.measure(*pair, FLOOR).summary(resamples=50)
    found = [summary[name].value for name in ("rmse_db", "rmse_active_db", "lsd_db", "lsd_active_db")]
    # Two channels: the level, which is measured, and what is carried beside it, which is not.
    np.testing.assert_allclose(found, naive(*(db[..., :1] for db in pair)), rtol=1e-12)


def test_batches_join_to_the_whole(pair):
    reference, estimate = pair
    whole = Errors.measure(reference, estimate, FLOOR)
    parts = Errors.concatenate(
        [
            Errors.measure(reference[:2], estimate[:2], FLOOR),
            Errors.measure(reference[2:], estimate[2:], FLOOR),
        ]
    )
    np.testing.assert_allclose(parts.lsd_active, whole.lsd_active)
    assert parts.summary(resamples=50) == whole.summary(resamples=50)


def test_a_constant_offset_reads_itself():
    reference = np.full((3, 4, 5, 1), -20.0)
    summary = Errors.measure(reference, reference - 2.5, FLOOR).summary(resamples=50)
    for estimate in summary.values():
        np.testing.assert_allclose(estimate, 2.5)


def test_silence_has_no_active_figure_and_does_not_spoil_the_others():
    reference = np.full((2, 4, 5, 1), FLOOR)
    reference[1] = -10.0
    errors = Errors.measure(reference, reference + 3.0, FLOOR)
    assert np.isnan(errors.lsd_active[0])
    assert errors.cells_active[0] == 0
    assert errors.summary(resamples=50)["lsd_active_db"].value == pytest.approx(3.0)
    silent = Errors.measure(reference[:1], reference[:1] + 3.0, FLOOR).summary(resamples=50)
    assert np.isnan(silent["rmse_active_db"].value)
    assert silent["rmse_db"].value == pytest.approx(3.0)


def test_shapes_must_agree():
    with pytest.raises(InputError, match="one shape"):
        Errors.measure(np.zeros((1, 2, 3, 1)), np.zeros((1, 2, 4, 1)), FLOOR)


def test_spectral_convergence_closed_forms():
    reference = np.random.default_rng(1).uniform(-60, 0, (3, 4, 5, 1))
    half = reference + 20 * np.log10(0.5)
    np.testing.assert_allclose(metrics.spectral_convergence(reference, half), 20 * np.log10(0.5))
    np.testing.assert_allclose(metrics.spectral_convergence(reference, np.full_like(reference, -400.0)), 0, atol=1e-9)
    assert np.all(metrics.spectral_convergence(reference, reference) == metrics.CONVERGENCE_FLOOR_DB)


def test_interval_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(2).gamma(2.0, 1.5, 80)
    found = metrics.mean(values, seed=3)
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", random_state=4)
    assert found.value == pytest.approx(values.mean())
    np.testing.assert_allclose(found[1:], expected.confidence_interval, rtol=0.02)


def test_interval_of_a_pooled_rmse_agrees_with_scipy():
    random = np.random.default_rng(5)
    squared, cells = random.gamma(2.0, 50.0, 60), random.integers(5, 50, 60)
    found = metrics.pooled_rmse(squared, cells)
    expected = scipy.stats.bootstrap(
        (squared, cells), lambda s, c, axis: np.sqrt(s.sum(axis=axis) / c.sum(axis=axis)),
        paired=True, vectorized=True, n_resamples=10_000, method="percentile", random_state=6,
    )  # fmt: skip
    assert found.value == pytest.approx(np.sqrt(squared.sum() / cells.sum()))
    np.testing.assert_allclose(found[1:], expected.confidence_interval, rtol=0.02)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        interval = metrics.mean(random.normal(1.0, 2.0, 40), resamples=500, seed=trial)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_is_repeatable_and_blocks_change_nothing(monkeypatch):
    values = np.random.default_rng(8).normal(size=30)
    first = metrics.mean(values, resamples=1000, seed=1)
    assert first == metrics.mean(values, resamples=1000, seed=1)
    assert first != metrics.mean(values, resamples=1000, seed=2)
    monkeypatch.setattr(metrics, "_BLOCK", 30 * 64)
    assert metrics.mean(values, resamples=1000, seed=1) == pytest.approx(first)


def test_nothing_to_average_is_nan():
    assert np.isnan(metrics.mean(np.array([np.nan])).value)
    assert np.isnan(metrics.rmse_ratio(np.zeros(3), np.zeros(3)).value)


def test_ratio_of_rmses():
    assert metrics.rmse_ratio(np.array([1.0, 3.0]), np.array([4.0, 12.0]), resamples=100) == pytest.approx(
        (0.5, 0.5, 0.5)
    )


def test_one_clip_tells_nothing_of_others():
    """Neither one clip, nor one with a value among several, nor one cluster has an interval."""
    several = np.array([1.0, 2.0, 4.0])
    assert metrics.mean(np.array([3.0]))[0] == 3.0
    for estimate in (
        metrics.mean(np.array([3.0])),
        metrics.mean(np.array([np.nan, 3.0, np.nan])),
        metrics.mean(several, clusters=["a", "a", "a"]),
        metrics.pooled_rmse(np.array([4.0, 0.0]), np.array([2.0, 0.0])),
    ):
        assert np.isfinite(estimate.value)
        assert np.isnan([estimate.low, estimate.high]).all()
    assert metrics.mean(several).low < metrics.mean(several).high
    assert metrics.deviation([1.0]) is None
    assert metrics.deviation([1.0, 3.0]) == pytest.approx(2**0.5)
