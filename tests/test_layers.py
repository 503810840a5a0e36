"""Layers against closed forms, statistics and naive loops."""

import itertools

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.layers import CalibratedSigma, GaussianParameters, PixelShuffle, Sampling


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_gaussian_parameters_split_and_bound():
    inputs = np.concatenate([noise(5, 3), np.linspace(-1e4, 1e4, 15).reshape(5, 3)], axis=-1).astype(np.float32)
    mean, log_variance = (np.asarray(x) for x in GaussianParameters()(inputs))
    np.testing.assert_array_equal(mean, inputs[:, :3])
    assert log_variance.min() >= -12.0
    assert log_variance.max() <= 6.0
    assert np.all(np.diff(log_variance.ravel()) >= 0.0)


def test_gaussian_parameters_leave_usual_log_variances_nearly_alone():
    usual = np.linspace(-6.0, 0.0, 30, dtype=np.float32)
    _, log_variance = GaussianParameters()(np.stack([usual, usual], axis=-1))
    assert np.asarray(log_variance)[:, 0] == pytest.approx(usual, abs=0.12)


def test_gaussian_parameters_keep_a_gradient_where_they_saturate():
    inputs = tf.Variable([[0.0, -30.0], [0.0, 30.0]])
    with tf.GradientTape() as tape:
        _, log_variance = GaussianParameters()(inputs)
        total = tf.reduce_sum(log_variance)
    assert np.all(tape.gradient(total, inputs).numpy()[:, 1] > 1e-4)


@pytest.mark.parametrize("layer", [GaussianParameters, Sampling])
def test_float32_under_any_policy(layer):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = tf.cast(noise(2, 4), tf.bfloat16)
        outputs = layer()(inputs) if layer is GaussianParameters else layer()(inputs, inputs)
    finally:
        keras.config.set_dtype_policy(before)
    assert all(x.dtype == tf.float32 for x in tf.nest.flatten(outputs))


def test_sampling_has_the_mean_and_variance_asked_for():
    mean = np.float32([[-2.0, 0.0, 3.0]])
    log_variance = np.log(np.float32([[0.01, 1.0, 9.0]]))
    count = 40_000
    drawn = np.asarray(Sampling()(np.repeat(mean, count, 0), np.repeat(log_variance, count, 0)))
    for column in range(3):
        scale = np.exp(0.5 * log_variance[0, column])
        found = scipy.stats.kstest(drawn[:, column], scipy.stats.norm(mean[0, column], scale).cdf)
        assert found.pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03


def test_sampling_is_repeatable_and_moves_on():
    mean, log_variance = noise(4, 8), noise(4, 8, seed=1)
    layer, twin, other = Sampling(seed=7), Sampling(seed=7), Sampling(seed=8)
    draws = [np.asarray(layer(mean, log_variance)) for _ in range(3)]
    for draw in draws:
        np.testing.assert_array_equal(twin(mean, log_variance), draw)
    assert not np.allclose(draws[0], draws[1])
    assert not np.allclose(other(mean, log_variance), draws[0])
    assert Sampling.from_config(layer.get_config()).seed == 7


def test_sampling_saves_where_its_noise_was(tmp_path):
    inputs = [keras.Input((8,)), keras.Input((8,))]
    model = keras.Model(inputs, Sampling(seed=7)(*inputs))
    values = [noise(4, 8), noise(4, 8, seed=1)]
    model(values)
    model.save(tmp_path / "sampling.keras")
    continued = [np.asarray(model(values)) for _ in range(2)]
    loaded = keras.saving.load_model(tmp_path / "sampling.keras")
    for expected in continued:
        np.testing.assert_array_equal(loaded(values), expected)


def test_sampling_passes_gradients_to_both_moments():
    mean, log_variance = tf.Variable(noise(2, 3)), tf.Variable(noise(2, 3, seed=1))
    with tf.GradientTape() as tape:
        drawn = Sampling()(mean, log_variance)
    to_mean, to_log_variance = tape.gradient(drawn, [mean, log_variance])
    np.testing.assert_allclose(to_mean, np.ones((2, 3)))
    np.testing.assert_allclose(to_log_variance, 0.5 * (drawn - mean), rtol=1e-4)


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_square_pixel_shuffle_equals_depth_to_space(block):
    inputs = noise(2, 3, 5, 2 * block * block)
    expected = tf.nn.depth_to_space(inputs, block).numpy() if block > 1 else inputs
    np.testing.assert_array_equal(PixelShuffle((block, block))(inputs), expected)


@given(rows=st.integers(1, 4), columns=st.integers(1, 4), channels=st.integers(1, 3))
def test_pixel_shuffle_equals_naive_loop(rows, columns, channels):
    inputs = noise(2, 3, 2, channels * rows * columns)
    expected = np.zeros((2, 3 * rows, 2 * columns, channels), np.float32)
    for y, x, r, s, c in itertools.product(range(3), range(2), range(rows), range(columns), range(channels)):
        expected[:, y * rows + r, x * columns + s, c] = inputs[:, y, x, (r * columns + s) * channels + c]
    layer = PixelShuffle((rows, columns))
    np.testing.assert_array_equal(layer(inputs), expected)
    assert layer.compute_output_shape((2, *inputs.shape[1:])) == expected.shape


def test_layers_survive_saving(tmp_path):
    inputs = keras.Input((4, 4, 16))
    shuffled = PixelShuffle((2, 4))(inputs)
    mean, log_variance = GaussianParameters()(shuffled)
    model = keras.Model(inputs, [mean, log_variance])
    model.save(tmp_path / "layers.keras")
    values = noise(2, 4, 4, 16)
    for found, expected in zip(keras.saving.load_model(tmp_path / "layers.keras")(values), model(values)):
        np.testing.assert_array_equal(found, expected)


def test_unbounded_log_variances_come_out_as_they_were():
    wanted = np.linspace(-11.9, 5.9, 20, dtype=np.float32)
    given = GaussianParameters.unbounded(wanted)
    _, found = GaussianParameters()(np.stack([wanted, given], axis=-1))
    np.testing.assert_allclose(np.asarray(found)[:, 0], wanted, atol=1e-3)


def test_calibrated_sigma_hands_on_and_keeps_a_running_mean(tmp_path):
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, CalibratedSigma(decay=0.9, name="sigma")(inputs))
    layer, features = model.get_layer("sigma"), noise(2, 4, 4, 2)
    np.testing.assert_array_equal(model(features), features)
    observed = noise(40, 2) - np.float32([3.0, 11.0])
    for row in observed:
        layer.update(row)
    expected = np.zeros(2)
    for count, row in enumerate(observed):
        decay = min(0.9, count / (count + 9))
        expected = decay * expected + (1 - decay) * np.exp(2.0 * row)
    np.testing.assert_allclose(layer.log_sigma, 0.5 * np.log(expected), atol=1e-5)
    assert not model.trainable_weights
    model.save(tmp_path / "sigma.keras")
    loaded = keras.saving.load_model(tmp_path / "sigma.keras").get_layer("sigma")
    np.testing.assert_array_equal(loaded.log_sigma, layer.log_sigma)
    assert loaded.decay == 0.9
