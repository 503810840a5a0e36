"""Losses against SciPy, Monte Carlo and closed forms."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae import losses


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_kl_is_the_integral_that_defines_it():
    points = np.linspace(-30.0, 30.0, 60_001)
    for mean, log_variance in [(0.0, 0.0), (1.5, -2.0), (-2.0, 1.0), (0.3, -6.0)]:
        posterior = scipy.stats.norm(mean, np.exp(0.5 * log_variance))
        ratio = posterior.logpdf(points) - scipy.stats.norm.logpdf(points)
        expected = scipy.integrate.trapezoid(posterior.pdf(points) * ratio, points)
        found = losses.kl_divergence(tf.constant(mean), tf.constant(log_variance))
        assert float(found) == pytest.approx(expected, abs=1e-4)


def test_kl_equals_monte_carlo():
    mean, log_variance = 3.0 * noise(4, 6), noise(4, 6, seed=1)
    scale = np.exp(0.5 * log_variance)
    drawn = mean + scale * np.random.default_rng(2).standard_normal((50_000, 4, 6))
    ratio = scipy.stats.norm.logpdf(drawn, mean, scale) - scipy.stats.norm.logpdf(drawn)
    expected = ratio.mean(axis=0)
    error = ratio.std(axis=0) / np.sqrt(50_000)
    found = np.asarray(losses.kl_divergence(mean, log_variance))
    assert found.shape == (4, 6)
    assert np.all(np.abs(found - expected) < 5.0 * error + 1e-3)


@given(mean=st.floats(-5.0, 5.0), log_variance=st.floats(-12.0, 6.0))
def test_kl_is_never_negative(mean, log_variance):
    assert float(losses.kl_divergence(tf.constant(mean), tf.constant(log_variance))) >= -1e-6


def test_errors_of_each_example():
    target, prediction = noise(3, 4, 5, 2), noise(3, 4, 5, 2, seed=1)
    expected = [np.mean((t - p) ** 2) for t, p in zip(target.astype(float), prediction.astype(float))]
    assert losses.mean_squared_error(target, prediction).numpy() == pytest.approx(expected, rel=1e-5)
    assert losses.root_mean_squared_error(target, prediction).numpy() == pytest.approx(np.sqrt(expected), rel=1e-5)


def test_errors_are_summed_in_float32():
    target = tf.cast(tf.zeros([1, 64, 64, 1]), tf.bfloat16)
    found = losses.mean_squared_error(target, tf.fill([1, 64, 64, 1], tf.constant(0.125, tf.bfloat16)))
    assert found.dtype == tf.float32
    assert float(found[0]) == pytest.approx(0.125**2, rel=1e-6)


@given(sigma=st.floats(0.02, 3.0), seed=st.integers(0, 99))
def test_gaussian_nll_equals_scipy(sigma, seed):
    target, prediction = noise(2, 30, seed=seed), noise(2, 30, seed=seed + 100)
    squared_error = np.mean((target - prediction) ** 2, axis=1)
    found = losses.gaussian_nll(squared_error, np.float32(np.log(sigma)), 30)
    expected = -scipy.stats.norm.logpdf(target, prediction, sigma).sum(axis=1)
    assert np.asarray(found) == pytest.approx(expected, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("rmse", [0.05, 0.2, 1.0, 5.0])
def test_optimal_sigma_is_the_rmse_and_minimises_the_likelihood(rmse):
    # Two examples of different error share one sigma: the root of their mean squared error.
    squared_error = np.float32([0.5, 1.5]) * np.float32(rmse**2)
    best = scipy.optimize.minimize_scalar(
        lambda log_sigma: float(np.mean(losses.gaussian_nll(squared_error, np.float32(log_sigma), 1000))),
        bounds=(-6.0, 6.0),
        method="bounded",
    ).x
    assert best == pytest.approx(np.log(rmse), abs=0.01)
    found = float(losses.optimal_log_sigma(squared_error))
    assert found == pytest.approx(np.log(rmse), abs=1e-5)


@pytest.mark.parametrize("rmse", [0.1, 0.044, 0.01, 1e-3, 1e-4, 1e-6])
def test_the_calibrated_likelihood_is_the_optimum(rmse):
    """Within 0.01 nats a clip of 16 384 cells of what SciPy finds under the best sigma, in double precision."""
    error = rmse * np.random.default_rng(0).standard_normal((4, 256, 64, 1))
    error = error.astype(np.float32)
    best = np.sqrt(np.mean(np.square(error, dtype=np.float64)))
    expected = -scipy.stats.norm.logpdf(error.astype(float), 0.0, best).sum() / 4
    nll, log_sigma = losses.optimal_nll(error, np.zeros_like(error))
    # The rest is rounding of a sum of this size in float32.
    assert float(np.mean(nll)) == pytest.approx(expected, abs=0.01 + 2e-7 * 16384 * abs(np.log(rmse)))
    excess = 16384 * (0.5 * (np.exp(2.0 * (np.log(best) - np.float64(log_sigma)))) + log_sigma - 0.5 - np.log(best))
    assert 0.0 <= float(excess[0]) + 1e-6 < 0.01


def test_sigma_is_finite_at_zero_error():
    found = float(losses.optimal_log_sigma(np.zeros(3, np.float32)))
    assert found == pytest.approx(np.log(losses.LEAST_SIGMA))


@pytest.mark.parametrize("rmse", [0.1, 0.01, 1e-3, 1e-5, 0.0])
def test_the_gradient_of_the_calibrated_likelihood_is_bounded_and_its_value_is_not_changed(rmse):
    """It is that of cells / 2 log(mean squared error), times (sigma / least sigma)^2 where sigma is less."""
    target = noise(3, 8, 4, 1)
    error = np.float32(rmse) * noise(3, 8, 4, 1, seed=1)
    prediction = tf.Variable(target + error)
    with tf.GradientTape() as tape:
        nll, _ = losses.optimal_nll(target, prediction, np.float32(np.log(0.01)))
        loss = tf.reduce_mean(nll)
    error = np.asarray(prediction, float) - target
    mean = max(np.mean(error**2), losses.LEAST_SIGMA**2)
    expected = np.sum(error**2) / 3 / 2 / mean + 16 * np.log(2 * np.pi * mean)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    gradient = tape.gradient(loss, prediction).numpy()
    np.testing.assert_allclose(gradient, error / max(mean, 0.01**2) / 3, rtol=1e-3, atol=1e-6)
    assert np.linalg.norm(gradient) <= 1.01 * np.sqrt(32 / 3) / 0.01


def test_gradients_are_finite_at_zero_error():
    target = noise(2, 5)
    prediction = tf.Variable(target)
    with tf.GradientTape(persistent=True) as tape:
        squared_error = losses.mean_squared_error(target, prediction)
        sigma = losses.optimal_log_sigma(squared_error)
        values = {
            "rmse": losses.root_mean_squared_error(target, prediction),
            "sigma": losses.gaussian_nll(squared_error, sigma, 5),
            "optimal": losses.optimal_nll(target[:, :, None, None], prediction[:, :, None, None])[0],
        }
    for name, value in values.items():
        assert np.all(np.isfinite(value)), name
        assert np.all(np.isfinite(tape.gradient(value, prediction).numpy())), name


def test_gaussian_nll_of_cells_equals_scipy():
    target, mean, log_variance = noise(3, 4, 5, 2), noise(3, 4, 5, 2, seed=1), noise(3, 4, 5, 2, seed=2)
    expected = -scipy.stats.norm.logpdf(target, mean, np.exp(0.5 * log_variance)).sum(axis=(1, 2, 3))
    assert np.asarray(losses.gaussian_nll_of_cells(target, mean, log_variance)) == pytest.approx(expected, rel=1e-4)


def test_calibrated_nll_has_a_sigma_for_each_channel():
    target, prediction = noise(3, 4, 5, 2), noise(3, 4, 5, 2, seed=1)
    for sigma in ([0.5, 2.0], np.sqrt(np.mean((target - prediction) ** 2, axis=(0, 1, 2)))):
        expected = -scipy.stats.norm.logpdf(target, prediction, sigma).sum(axis=(1, 2, 3))
        given = [] if isinstance(sigma, np.ndarray) else [np.log(np.float32(sigma))]
        found = np.asarray(losses.calibrated_nll(target, prediction, *given))
        assert found == pytest.approx(expected, rel=3e-3)


def test_bernoulli_nll_equals_scipy_and_is_finite_for_sure_logits():
    outcomes, logits = (noise(3, 4, 5, 1) > 0).astype(np.float32), 3.0 * noise(3, 4, 5, 1, seed=1)
    probability = 1.0 / (1.0 + np.exp(-logits.astype(float)))
    expected = -scipy.stats.bernoulli.logpmf(outcomes, probability).sum(axis=(1, 2, 3))
    assert np.asarray(losses.bernoulli_nll(outcomes, logits)) == pytest.approx(expected, rel=1e-4)
    between = np.random.default_rng(2).uniform(size=logits.shape)
    expected = -(between * np.log(probability) + (1 - between) * np.log1p(-probability)).sum(axis=(1, 2, 3))
    assert np.asarray(losses.bernoulli_nll(between, logits)) == pytest.approx(expected, rel=1e-4)
    assert np.isfinite(losses.bernoulli_nll(outcomes, 1e4 * (2.0 * outcomes - 1.0))).all()


def test_bernoulli_nll_is_no_density_between_0_and_1():
    """What the docstring warns of: exp(-loss) integrates to something else than 1."""
    points = np.linspace(0.0, 1.0, 10_001, dtype=np.float32)
    for logit in (0.0, 3.0):
        nll = losses.bernoulli_nll(points.reshape(-1, 1, 1, 1), np.full((10_001, 1, 1, 1), logit, np.float32))
        p = 1.0 / (1.0 + np.exp(-logit))
        # The integral of p^x (1 - p)^(1 - x), in closed form.
        expected = 0.5 if logit == 0.0 else (2.0 * p - 1.0) / logit
        found = scipy.integrate.trapezoid(np.exp(-np.asarray(nll, float)), points)
        assert found == pytest.approx(expected, rel=1e-3)
        assert found < 0.51


def test_free_bits_bound_the_mean_of_each_dimension_below():
    kl = np.random.default_rng(0).exponential([0.01, 0.1, 1.0], (50, 3)).astype(np.float32)
    expected = sum(max(0.2, column.mean()) for column in kl.T)
    assert float(losses.free_bits(kl, 0.2)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.free_bits(kl, 0.0)) == pytest.approx(kl.mean(axis=0).sum(), rel=1e-5)
