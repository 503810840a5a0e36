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
    # Of noise at RMS 0.1: 0.375 * 0.01 / 1e-4 and log(0.05 / 1e-7), at five sizes.
    assert float(distance[0]) < 5 * (45 + 14)


def test_the_denominator_is_bounded_for_quiet_targets_alone():
    # Magnitudes doubled: (X - Y)^2 = X^2 and log 2 in every cell.
    for rms, relative in [(0.1, 1.0), (0.002, 0.375 * 0.002**2 / 1e-4)]:
        target = noise(1, 65536, rms=rms)
        found = losses.spectral_distance(target, 2.0 * target, (512,))
        assert float(found[0]) == pytest.approx(relative + np.log(2.0), rel=0.02)
