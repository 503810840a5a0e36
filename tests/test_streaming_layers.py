"""Convolutions against naive sums, whole sounds against blocks with a state in between, noise against its spectrum."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from spectrovae.errors import InputError
from spectrovae.streaming_layers import SHORT, Convolution, FilteredNoise, Upsampling


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def built(layer, channels, seed=0):
    layer.build((None, None, channels))
    layer.bias.assign(noise(*layer.bias.shape, seed=seed))
    return layer


def naive(x, kernel, bias, stride, dilation, before, after):
    """Sums over taps and channels in float64."""
    x = np.pad(np.float64(x), [(0, 0), (before, after), (0, 0)])
    taps = len(kernel)
    steps = (x.shape[1] - (taps - 1) * dilation - 1) // stride + 1
    out = np.zeros((len(x), steps, kernel.shape[2]))
    for step in range(steps):
        for tap in range(taps):
            out[:, step] += x[:, step * stride + tap * dilation] @ np.float64(kernel[tap])
    return out + bias


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 5), (9, 4, 1), (5, 2, 1), (8, 4, 1), (1, 1, 1)]
)
def test_convolution_is_a_sum_over_taps(kernel, stride, dilation, causal):
    layer = built(Convolution(5, kernel, stride, dilation, causal=causal), 3)
    x = noise(2, 24, 3)
    reach = (kernel - 1) * dilation + 1 - stride
    before = reach if causal else reach // 2
    expected = naive(x, np.asarray(layer.kernel), np.asarray(layer.bias), stride, dilation, before, reach - before)
    assert expected.shape == (2, 24 // stride, 5) == (2, *layer.compute_output_shape((2, 24, 3))[1:])
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_groups_do_not_meet():
    layer = built(Convolution(4, 3, groups=2), 6)
    x = noise(1, 10, 6)
    before = np.asarray(layer(x))
    x[..., 3:] = 0.0
    after = np.asarray(layer(x))
    np.testing.assert_array_equal(before[..., :2], after[..., :2])
    assert np.abs(before[..., 2:] - after[..., 2:]).max() > 0.1


@pytest.mark.parametrize("ratio", [2, 4, 5])
def test_upsampling_is_a_transposed_convolution(ratio):
    """The same sums as Keras's own, whose kernel is [tap, output, input], after its first outputs."""
    layer = built(Upsampling(3, ratio, causal=True), 4)
    kernel = np.asarray(layer.kernel).reshape(2, 4, ratio, 3)
    # Tap 0 is of the input before: the second half of a transposed kernel of 2 * ratio.
    transposed = np.concatenate([kernel[1], kernel[0]], axis=1).transpose(1, 2, 0)
    peer = keras.layers.Conv1DTranspose(3, 2 * ratio, ratio, padding="valid")
    peer.build((None, None, 4))
    peer.set_weights([transposed, np.asarray(layer.bias)])
    x = noise(2, 9, 4)
    np.testing.assert_allclose(layer(x), np.asarray(peer(x))[:, : 9 * ratio], atol=1e-5)
    both_sides = built(Upsampling(3, ratio), 4)
    both_sides.set_weights(layer.get_weights())
    first = ratio - ratio // 2
    np.testing.assert_allclose(both_sides(x), np.asarray(peer(x))[:, first : first + 9 * ratio], atol=1e-5)


LAYERS = {
    "convolution": (lambda: built(Convolution(5, 7, causal=True), 3), 3, 1),
    "dilated": (lambda: built(Convolution(5, 3, dilation=9, causal=True), 3), 3, 1),
    "strided": (lambda: built(Convolution(4, 9, 4, causal=True), 4), 4, 4),
    "pointwise": (lambda: built(Convolution(4, 1, causal=True), 4), 4, 1),
    "upsampling": (lambda: built(Upsampling(3, 4, causal=True), 5), 5, 1),
}


@pytest.mark.parametrize("name", LAYERS)
@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_blocks_are_the_whole(name, sizes):
    make, channels, multiple = LAYERS[name]
    layer, sizes = make(), [size * multiple for size in sizes]
    x = noise(2, sum(sizes), channels)
    state, found = layer.initial_state(2), []
    for block in np.split(x, np.cumsum(sizes)[:-1], axis=1):
        y, state = layer.step(block, state)
        found.append(np.asarray(y))
    np.testing.assert_allclose(np.concatenate(found, axis=1), layer(x), atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_long_steps_are_short_ones(name):
    """On either side of the length from which a step convolves instead of multiplying."""
    make, channels, multiple = LAYERS[name]
    layer = make()
    x = noise(2, (SHORT + 1) * multiple, channels)
    short, state = layer.step(x[:, : SHORT * multiple], layer.initial_state(2))
    rest, state = layer.step(x[:, SHORT * multiple :], state)
    long, after = layer.step(x, layer.initial_state(2))
    np.testing.assert_allclose(np.concatenate([short, rest], axis=1), long, atol=1e-5)
    for first, second in zip(state, after):
        np.testing.assert_array_equal(first, second)


def test_groups_do_not_meet_in_a_step():
    layer = built(Convolution(4, 3, groups=2, causal=True), 6)
    x = noise(2, 10, 6)
    np.testing.assert_allclose(layer.step(x, layer.initial_state(2))[0], layer(x), atol=1e-5)


def heard(**options):
    layer = FilteredNoise(2, 5, 16, **options)
    layer.build((None, None, 10))
    layer.gate.assign(1.0)
    return layer


@settings(deadline=None, max_examples=10)
@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_noise_goes_on_where_it_was(sizes):
    """Beyond its period too."""
    layer = heard()
    amplitudes = np.abs(noise(2, sum(sizes), 10))
    state, found = layer.initial_state(2), []
    for block in np.split(amplitudes, np.cumsum(sizes)[:-1], axis=1):
        y, state = layer.step(block, state)
        found.append(np.asarray(y))
    whole = np.asarray(layer(amplitudes))
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-6)
    np.testing.assert_array_equal(whole, layer(amplitudes))


def test_noise_has_the_spectrum_that_is_asked_for():
    layer = heard(seed=3)
    amplitudes = np.zeros((1, 4000, 2, 5), np.float32)
    amplitudes[..., 0, :] = 1.0  # white
    amplitudes[..., 1, 2] = 1.0  # round a quarter of the rate
    found = np.asarray(layer(amplitudes.reshape(1, 4000, 10), training=True))[0]
    assert np.var(found[:, 0]) == pytest.approx(1.0 / 3.0, rel=0.05)  # of uniform noise in [-1, 1]
    frequency, power = signal.welch(found[:, 1], nperseg=256)
    assert frequency[power.argmax()] == pytest.approx(0.25, abs=0.03)
    assert power[np.abs(frequency - 0.25) > 0.2].max() < 0.05 * power.max()
    _, flat = signal.welch(found[:, 0], nperseg=64)
    assert flat[2:-2].max() < 1.3 * flat[2:-2].min()


def test_noise_is_new_in_training_and_silent_behind_its_gate():
    layer = heard()
    amplitudes = np.ones((1, 20, 10), np.float32)
    first, second = (np.asarray(layer(amplitudes, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    layer.gate.assign(0.0)
    np.testing.assert_array_equal(layer(amplitudes), np.zeros((1, 320, 2)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Convolution(4, 2, stride=3),
        lambda: Convolution(0, 3),
        lambda: Upsampling(4, 0),
        lambda: FilteredNoise(1, 1, 16),
        lambda: Convolution(4, 3, groups=3).build((None, None, 4)),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(InputError, match="received|divide"):
        make()
