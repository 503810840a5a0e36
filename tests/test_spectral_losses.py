"""Spectral distance and the losses of adversarial training against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from spectrovae import losses
from spectrovae.errors import InputError


def noise(*shape, seed=0, rms=0.1):
    return (rms * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def naive_magnitudes(signal, size):
    """SciPy's STFT in float64: frames centred, the signal mirrored at its ends."""
    padded = np.pad(np.float64(signal), size // 2, mode="reflect")
    window, hop = scipy.signal.get_window("hann", size), size // 4
    frames = [padded[start : start + size] * window for start in range(0, len(padded) - size + 1, hop)]
    return np.abs(scipy.fft.rfft(frames)) / np.sqrt(size)


def naive_distance(target, prediction, sizes):
    """Of one example: rows (bands, samples)."""
    total = 0.0
    for size in sizes:
        x, y = (np.array([naive_magnitudes(row, size) for row in np.atleast_2d(s)]) for s in (target, prediction))
        total += np.mean((x - y) ** 2) / np.mean(x**2) + np.mean(np.abs(np.log(x + 1e-7) - np.log(y + 1e-7)))
    return total


@pytest.mark.parametrize("shape", [(4096,), (3, 900)])
def test_spectral_distance_is_the_naive_one(shape):
    target, prediction = noise(2, *shape), noise(2, *shape, seed=1, rms=0.03)
    sizes = [size for size in (2048, 1024, 512, 256, 128) if size <= shape[-1]]
    expected = [naive_distance(t, p, sizes) for t, p in zip(target, prediction)]
    found = losses.spectral_distance(target, prediction)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(losses.spectral_distance(target, target), 0.0, atol=1e-6)


def test_spectral_distance_of_lengths_unknown_and_in_other_precisions():
    target, prediction = noise(2, 2, 2400), noise(2, 2, 2400, seed=1)
    expected = losses.spectral_distance(target, prediction)
    dynamic = tf.function(losses.spectral_distance, input_signature=[tf.TensorSpec([None, 2, None])] * 2)
    np.testing.assert_allclose(dynamic(target, prediction), expected, rtol=1e-5)
    half = [tf.cast(signal, tf.bfloat16) for signal in (target, prediction)]
    assert losses.spectral_distance(*half).dtype == tf.float32
    np.testing.assert_allclose(losses.spectral_distance(*half), expected, rtol=0.01)


def test_spectral_distance_leaves_out_sizes_longer_than_the_signal():
    target, prediction = noise(1, 300), noise(1, 300, seed=1)
    np.testing.assert_allclose(
        losses.spectral_distance(target, prediction), losses.spectral_distance(target, prediction, (256, 128))
    )
    with pytest.raises(InputError, match="128 samples or more, received 127"):
        losses.spectral_distance(target[:, :127], prediction[:, :127])


@pytest.mark.parametrize("target", ["silence", "noise"])
@pytest.mark.parametrize("prediction", ["silence", "noise", "whisper"])
def test_silence_costs_a_bounded_amount_and_gives_finite_gradients(target, prediction):
    signals = {"silence": np.zeros((1, 2048), np.float32), "noise": noise(1, 2048), "whisper": noise(1, 2048, rms=1e-9)}
    predicted = tf.Variable(signals[prediction])
    with tf.GradientTape() as tape:
        distance = losses.spectral_distance(signals[target], predicted)
    assert np.isfinite(tape.gradient(distance, predicted)).all()
    # Of noise at RMS 0.1: 0.375 * 0.01 / 1e-5 and log(0.05 / 1e-7), at five sizes.
    assert float(distance[0]) < 5 * (450 + 14)


def test_the_denominator_is_bounded_for_quiet_targets_alone():
    # Magnitudes doubled: (X - Y)^2 = X^2 and log 2 in every cell.
    for rms, relative in [(0.1, 1.0), (0.002, 0.375 * 0.002**2 / 1e-5)]:
        target = noise(1, 65536, rms=rms)
        found = losses.spectral_distance(target, 2.0 * target, (512,))
        assert float(found[0]) == pytest.approx(relative + np.log(2.0), rel=0.02)


# Adversarial losses


def judgement(seed, scale=1.0):
    """Two discriminators of two layers and logits; of different sizes."""
    shapes = [[(2, 8, 3), (2, 4, 6), (2, 4, 1)], [(6, 5, 2), (6, 3, 4), (6, 2, 1)]]
    return [[noise(*s, seed=seed + 10 * i + j, rms=scale) for j, s in enumerate(ss)] for i, ss in enumerate(shapes)]


def naive_mean(function, judged):
    return np.mean([np.mean(function(np.float64(maps[-1]))) for maps in judged])


def test_hinge_losses_are_the_naive_ones():
    real, fake = judgement(0), judgement(5)
    expected = naive_mean(lambda x: np.maximum(1 - x, 0), real) + naive_mean(lambda x: np.maximum(1 + x, 0), fake)
    assert float(losses.discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-6)
    assert float(losses.generator_loss(fake, "hinge")) == pytest.approx(-naive_mean(lambda x: x, fake), rel=1e-5)
    assert float(losses.mean_score(real)) == pytest.approx(naive_mean(lambda x: x, real), rel=1e-5)


def test_least_squares_losses_are_the_naive_ones():
    real, fake = judgement(0), judgement(5)
    expected = naive_mean(lambda x: (1 - x) ** 2, real) + naive_mean(np.square, fake)
    assert float(losses.discriminator_loss(real, fake, "least_squares")) == pytest.approx(expected, rel=1e-6)
    expected = naive_mean(lambda x: (1 - x) ** 2, fake)
    assert float(losses.generator_loss(fake, "least_squares")) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("adversary", losses.ADVERSARIES)
def test_each_player_lowers_its_loss_by_moving_logits_its_way(adversary):
    real, fake = (tf.Variable(noise(4, 1)) for _ in range(2))
    with tf.GradientTape() as tape:
        loss = losses.discriminator_loss([[real]], [[fake]], adversary)
    up, down = tape.gradient(loss, [real, fake])
    assert (up.numpy() < 0).all()
    assert adversary == "least_squares" or (down.numpy() > 0).all()
    with tf.GradientTape() as tape:
        loss = losses.generator_loss([[fake]], adversary)
    assert (tape.gradient(loss, fake).numpy() < 0).all()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("skip", [0, 1])
def test_feature_matching_is_the_naive_one(relative, skip):
    real, fake = judgement(0), judgement(5)
    expected = []
    for real_maps, fake_maps in zip(real, fake):
        pairs = list(zip(real_maps, fake_maps))[skip:-1]
        terms = [np.mean(np.abs(np.float64(x) - y)) / (np.mean(np.abs(x)) if relative else 1.0) for x, y in pairs]
        expected.append(np.mean(terms))
    found = losses.feature_matching(real, fake, relative=relative, skip=skip)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def test_feature_matching_leaves_logits_out_and_bounds_its_ratio():
    real, fake = judgement(0), judgement(0)
    for maps in fake:
        maps[-1] = maps[-1] + 5.0
    assert float(losses.feature_matching(real, fake)) == 0.0
    dead = [[np.zeros_like(x) for x in maps] for maps in real]
    assert float(losses.feature_matching(dead, real, relative=True)) == pytest.approx(
        1000.0 * float(losses.feature_matching(dead, real)), rel=1e-5
    )


def test_a_weight_is_applied_once():
    """All maps move by one amount: feature matching by as much, whatever the number of layers and discriminators."""
    real = judgement(0)
    shift = tf.Variable(0.5)
    with tf.GradientTape() as tape:
        loss = 10.0 * losses.feature_matching(real, [[x + shift for x in maps] for maps in real])
    assert float(tape.gradient(loss, shift)) == pytest.approx(10.0, rel=1e-5)
    with tf.GradientTape() as tape:
        loss = 3.0 * losses.generator_loss([[x + shift for x in maps] for maps in real])
    assert float(tape.gradient(loss, shift)) == pytest.approx(-3.0, rel=1e-5)


def test_adversarial_losses_are_computed_in_float32():
    half = [[tf.cast(x, tf.bfloat16) for x in maps] for maps in judgement(0)]
    for found in (
        losses.discriminator_loss(half, half),
        losses.generator_loss(half, "least_squares"),
        losses.feature_matching(half, half, relative=True),
    ):
        assert found.dtype == tf.float32


def test_what_adversarial_losses_refuse():
    with pytest.raises(InputError, match="hinge, least_squares, received 'wasserstein'"):
        losses.generator_loss(judgement(0), "wasserstein")
    with pytest.raises(InputError, match="below the 2 layers"):
        losses.feature_matching(judgement(0), judgement(1), skip=2)
