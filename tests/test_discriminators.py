"""Discriminators: their arithmetic against NumPy and Keras's two-dimensional layers, and who gives whom a gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from spectrovae import losses
from spectrovae.errors import InputError
from spectrovae.models import discriminators
from spectrovae.models.discriminators import Discriminators, MultiPeriod, MultiScale


def noise(*shape, seed=0, rms=0.3):
    return (rms * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def naive_convolution(x, kernel, bias, stride):
    """(steps, in) -> (steps / stride, out), zeros at both ends, more of them at the end where they are odd."""
    size, steps = len(kernel), -(-len(x) // stride)
    missing = max((steps - 1) * stride + size - len(x), 0)
    x = np.pad(x, [[missing // 2, missing - missing // 2], [0, 0]])
    return np.stack([np.tensordot(x[i * stride : i * stride + size], kernel, 2) for i in range(steps)]) + bias


def naive_maps(part, x):
    """Feature maps of one row (steps, 1) in float64."""
    maps = []
    for layer in part.convolutions:
        x = naive_convolution(x, *map(np.float64, layer.get_weights()), layer.strides[0])
        x = np.where(x > 0, x, 0.2 * x)
        maps.append(x)
    return [*maps, naive_convolution(x, *map(np.float64, part.logits.get_weights()), 1)]


@pytest.mark.parametrize("samples", [400, 403])
def test_multi_scale_is_the_naive_one(samples):
    model, waveform = MultiScale(capacity=2, depth=2), noise(2, samples)
    judged = model(waveform)
    assert [len(maps) for maps in judged] == [3, 3, 3]
    for example, x in enumerate(np.float64(waveform)):
        for part, maps in zip(model.parts, judged):
            for found, expected in zip(maps, naive_maps(part, x[:, None]), strict=True):
                np.testing.assert_allclose(found[example], expected, atol=1e-5)
            x = x[: len(x) // 2 * 2].reshape(-1, 2).mean(axis=1)


@pytest.mark.parametrize("samples", [330, 401])
def test_multi_period_is_two_dimensional_convolution_of_the_folded_waveform(samples):
    model, waveform = MultiPeriod(capacity=2, depth=2), noise(2, samples)
    for period, part, maps in zip(model.periods, model.parts, model(waveform), strict=True):
        x = np.pad(waveform, [[0, 0], [0, -samples % period]]).reshape(2, -1, period, 1)
        for layer, found in zip([*part.convolutions, part.logits], maps, strict=True):
            kernel, bias = layer.get_weights()
            stride = layer.strides[0]
            wide = keras.layers.Conv2D(layer.filters, (len(kernel), 1), (stride, 1), padding="same")
            wide.build(x.shape)
            wide.set_weights([kernel[:, None], bias])
            x = np.asarray(wide(x))
            if layer is not part.logits:
                x = np.where(x > 0, x, 0.2 * x)
            columns = np.transpose(x, (0, 2, 1, 3)).reshape(2 * period, *x.shape[1:2], x.shape[3])
            np.testing.assert_allclose(found, columns, atol=1e-5)


@pytest.mark.parametrize("periods", [(), (2, 3)])
def test_all_discriminators_are_theirs_in_a_row(periods):
    model, waveform = Discriminators(capacity=2, periods=periods, name="discriminator"), noise(2, 257)
    model.build((None, 257))
    expected = [maps for part in model.parts for maps in part(waveform)]
    judged = model(waveform)
    assert len(judged) == 3 + len(periods)
    for maps, others in zip(judged, expected, strict=True):
        for x, y in zip(maps, others, strict=True):
            np.testing.assert_array_equal(x, y)
    assert all(weight.path.startswith("discriminator/") for weight in model.weights)
    assert len({weight.path for weight in model.weights}) == len(model.weights)


def test_lengths_may_be_unknown_and_change():
    model = Discriminators(capacity=2)
    graph = tf.function(model, input_signature=[tf.TensorSpec([None, None])])
    for samples in (256, 301):
        waveform = noise(2, samples)
        for maps, others in zip(graph(waveform), model(waveform), strict=True):
            np.testing.assert_allclose(maps[-1], others[-1], atol=1e-5)


@pytest.mark.parametrize("make", [MultiScale, MultiPeriod, Discriminators])
def test_saved_and_reloaded(make, tmp_path):
    waveform = keras.Input((300,))
    model = keras.Model(waveform, make(capacity=2, depth=3)(waveform))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for x, y in zip(keras.tree.flatten(model(noise(2, 300))), keras.tree.flatten(again(noise(2, 300))), strict=True):
        np.testing.assert_array_equal(x, y)


def test_logits_are_float32_whatever_the_precision():
    model = Discriminators(capacity=2, dtype="mixed_bfloat16")
    assert {maps[-1].dtype for maps in model(noise(1, 256))} == {tf.float32}


def test_what_is_refused():
    for options in ({"capacity": 0}, {"depth": 0}, {"scales": 0}, {"periods": (0, 2)}):
        with pytest.raises(InputError, match="1 or more, received 0"):
            Discriminators(**options)


# Two players in one step


@pytest.fixture
def game():
    """A generator that is one gain, discriminators, and sounds."""
    model = Discriminators(capacity=2, periods=(2, 3))
    model.build((None, 300))
    return model, keras.Variable(0.7, name="gain"), noise(3, 300), noise(3, 300, seed=1)


def gradients(loss_of, model, gain, real, sound):
    with tf.GradientTape() as tape:
        loss = loss_of(*discriminators.players(model, real, gain * sound))
    return tape.gradient(loss, [gain.value, *[weight.value for weight in model.trainable_variables]])


def generators(seen, judged):
    return losses.generator_loss(seen[1]) + 10.0 * losses.feature_matching(*seen)


def judges(seen, judged):
    return losses.discriminator_loss(*judged)


def test_the_generators_loss_moves_the_generator_alone(game):
    of_gain, *of_weights = gradients(generators, *game)
    assert abs(float(of_gain)) > 1e-3
    assert all(gradient is None or not np.any(gradient) for gradient in of_weights)


def test_the_discriminators_loss_moves_the_discriminators_alone(game):
    of_gain, *of_weights = gradients(judges, *game)
    assert of_gain is None or float(of_gain) == 0.0
    # The hinge moves the last bias up for real sounds and as much down for fake ones.
    weights = game[0].trainable_variables
    assert all(np.any(g) for g, weight in zip(of_weights, weights, strict=True) if "kernel" in weight.path)


def test_one_step_of_the_sum_is_a_step_of_each(game):
    model, gain, real, sound = game
    both = gradients(lambda *seen: generators(*seen) + judges(*seen), *game)
    # Each player's own game, the usual way: one tape each, over its own variables alone.
    with tf.GradientTape() as tape:
        seen = model(real), model(gain * sound)
        loss = losses.generator_loss(seen[1]) + 10.0 * losses.feature_matching(*seen)
    np.testing.assert_allclose(both[0], tape.gradient(loss, gain.value), rtol=1e-4)
    with tf.GradientTape() as tape:
        loss = losses.discriminator_loss(model(real), model(gain * sound))
    for found, expected in zip(both[1:], tape.gradient(loss, [w.value for w in model.trainable_variables])):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_judge_with_other_weights(game):
    model, _, real, _ = game
    halved = [0.5 * ops.convert_to_tensor(weight) for weight in model.trainable_variables]
    judged = discriminators.judge(model, halved, real)
    before = model.get_weights()
    model.set_weights([0.5 * weight for weight in before])
    for maps, others in zip(judged, model(real), strict=True):
        np.testing.assert_allclose(maps[-1], others[-1], atol=1e-6)
    model.set_weights(before)
    assert np.abs(model(real)[0][-1] - judged[0][-1]).max() > 1e-3


def test_discriminators_learn_to_tell_noise_from_a_tone():
    model = Discriminators(capacity=4, periods=(2, 3), depth=3)
    model.build((None, 512))
    optimizer = keras.optimizers.Adam(3e-3)
    times = np.arange(512) / 8000.0

    def sounds(seed):
        generator = np.random.default_rng(seed)
        tones = 0.4 * np.sin(2 * np.pi * generator.uniform(200, 900, (8, 1)) * times + generator.uniform(0, 6, (8, 1)))
        return tones.astype(np.float32), noise(8, 512, seed=seed)

    @tf.function
    def step(real, fake):
        with tf.GradientTape() as tape:
            loss = losses.discriminator_loss(*discriminators.players(model, real, fake)[1])
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)

    for seed in range(60):
        step(*sounds(seed))
    real, fake = sounds(1000)
    assert losses.mean_score(model(real)) > 0.5
    assert losses.mean_score(model(fake)) < -0.5
