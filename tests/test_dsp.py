"""The short-time Fourier transform against librosa, framing against loops."""

import itertools

import librosa
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp.stft import (
    db_to_magnitude,
    frame,
    frame_count,
    hann,
    inverse_window_sum,
    istft,
    overlap_add,
    power_to_db,
    stft,
)
from spectrovae.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:n_fft=:UserWarning")  # librosa, on short signals

# powers of two and not, hops that divide n_fft and that do not
SIZES = [(512, 128), (64, 16), (64, 32), (64, 24), (100, 30), (48, 7), (30, 1), (4, 2)]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def librosa_stft(waveform, n_fft, hop_length):
    found = librosa.stft(
        waveform.astype(np.float64), n_fft=n_fft, hop_length=hop_length, center=True, pad_mode="constant"
    )
    return np.swapaxes(found, -1, -2)


def naive_frames(signal, n_fft, hop_length, frames):
    found = np.zeros((len(signal), frames, n_fft))
    for row, index, offset in itertools.product(range(len(signal)), range(frames), range(n_fft)):
        position = index * hop_length + offset
        if position < signal.shape[1]:
            found[row, index, offset] = signal[row, position]
    return found


def naive_overlap_add(framed, hop_length):
    batch, frames, n_fft = framed.shape
    total = np.zeros((batch, (frames - 1) * hop_length + n_fft))
    for index in range(frames):
        total[:, index * hop_length : index * hop_length + n_fft] += framed[:, index]
    return total


def test_hann_is_periodic():
    assert hann(16).numpy() == pytest.approx(librosa.filters.get_window("hann", 16, fftbins=True), abs=1e-6)


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
@given(samples=st.integers(1, 700), batch=st.integers(1, 3))
def test_stft_equals_librosa(n_fft, hop_length, samples, batch):
    waveform = noise(batch, samples)
    spectrum = stft(tf.constant(waveform), n_fft, hop_length).numpy()
    expected = librosa_stft(waveform, n_fft, hop_length)
    assert spectrum.shape == expected.shape == (batch, frame_count(samples, hop_length), 1 + n_fft // 2)
    np.testing.assert_allclose(spectrum, expected, atol=1e-6 * n_fft)


@pytest.mark.parametrize("n_fft", [1, 5, 511])
def test_an_odd_window_is_refused(n_fft):
    with pytest.raises(InputError, match="n_fft must be an even number"):
        stft(tf.zeros((1, 100)), n_fft, 1)


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
@given(samples=st.integers(1, 700))
def test_istft_inverts_stft(n_fft, hop_length, samples):
    waveform = noise(2, samples)
    rebuilt = istft(stft(tf.constant(waveform), n_fft, hop_length), n_fft, hop_length, samples).numpy()
    assert rebuilt.shape == waveform.shape
    # Past the last frame's centre the window may fade to nothing: what it does not reach cannot come back.
    frames = frame_count(samples, hop_length)
    reach = librosa.filters.window_sumsquare(window="hann", n_frames=frames, n_fft=n_fft, hop_length=hop_length)
    reach = np.pad(reach, (0, samples))[n_fft // 2 :][:samples]
    np.testing.assert_allclose(rebuilt[:, reach > 1e-3], waveform[:, reach > 1e-3], atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
def test_istft_equals_librosa_on_any_spectrum(n_fft, hop_length):
    spectrum = (noise(2, 9, 1 + n_fft // 2) + 1j * noise(2, 9, 1 + n_fft // 2, seed=1)).astype(np.complex64)
    expected = librosa.istft(np.swapaxes(spectrum, 1, 2), hop_length=hop_length, n_fft=n_fft, center=True)
    found = istft(tf.constant(spectrum), n_fft, hop_length).numpy()
    assert found.shape == expected.shape == (2, 8 * hop_length)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_istft_pads_with_zeros_past_the_last_frame():
    spectrum = stft(tf.constant(noise(1, 100)), 64, 16)
    rebuilt = istft(spectrum, 64, 16, 500).numpy()
    assert rebuilt.shape == (1, 500)
    assert np.any(rebuilt[:, :100])
    assert not np.any(rebuilt[:, 96 + 32 :])


@given(
    n_fft=st.integers(1, 24),
    hop_length=st.integers(1, 24),
    frames=st.integers(1, 6),
    samples=st.integers(0, 60),
)
def test_frame_equals_naive_loop(n_fft, hop_length, frames, samples):
    signal = noise(2, samples)
    found = frame(tf.constant(signal), n_fft, hop_length, frames).numpy()
    np.testing.assert_array_equal(found, naive_frames(signal, n_fft, hop_length, frames).astype(np.float32))


@given(n_fft=st.integers(1, 24), hop_length=st.integers(1, 24), frames=st.integers(1, 6))
def test_overlap_add_equals_naive_loop(n_fft, hop_length, frames):
    framed = noise(2, frames, n_fft)
    found = overlap_add(tf.constant(framed), hop_length).numpy()
    expected = naive_overlap_add(framed, hop_length)
    assert found.shape[1] >= expected.shape[1]
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=1e-5)
    assert not np.any(found[:, expected.shape[1] :])


@given(n_fft=st.integers(1, 24), hop_length=st.integers(1, 24), frames=st.integers(1, 6))
def test_overlap_add_is_the_adjoint_of_frame(n_fft, hop_length, frames):
    framed = noise(1, frames, n_fft)
    summed = overlap_add(tf.constant(framed), hop_length).numpy()
    signal = noise(1, summed.shape[1], seed=1)
    cut = frame(tf.constant(signal), n_fft, hop_length, frames).numpy()
    assert np.vdot(cut, framed) == pytest.approx(np.vdot(signal, summed), abs=1e-4)


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
def test_window_sum_equals_librosa(n_fft, hop_length):
    expected = librosa.filters.window_sumsquare(window="hann", n_frames=6, n_fft=n_fft, hop_length=hop_length)
    found = inverse_window_sum(n_fft, hop_length, 6).numpy()[0, : len(expected)]
    np.testing.assert_allclose(found[expected > 1e-4], 1.0 / expected[expected > 1e-4], rtol=1e-3)
    assert not np.any(found[expected < 1e-9])


def test_stft_in_a_graph_of_unknown_shape():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)])
    def round_trip(waveform):
        return istft(stft(waveform, 64, 16), 64, 16, tf.shape(waveform)[1])

    for shape in [(1, 1), (3, 250), (2, 1000)]:
        np.testing.assert_allclose(round_trip(tf.constant(noise(*shape))).numpy(), noise(*shape), atol=1e-4)


def test_power_to_db_equals_librosa_above_the_floor():
    power = np.float32([0.0, 1e-12, 1e-8, 1e-3, 1.0, 50.0])
    expected = librosa.power_to_db(power.astype(np.float64), amin=1e-8, top_db=None)
    assert power_to_db(tf.constant(power), -80.0).numpy() == pytest.approx(expected, abs=1e-4)
    assert power_to_db(tf.constant(power), -80.0).numpy()[:3] == pytest.approx([-80.0] * 3, abs=1e-4)


def test_gradient_is_finite_on_silence():
    waveform = tf.Variable(tf.zeros([1, 200]))
    with tf.GradientTape() as tape:
        power = tf.square(tf.abs(stft(waveform, 64, 16)))
        total = tf.reduce_sum(power_to_db(power, -80.0))
    assert np.all(np.isfinite(tape.gradient(total, waveform).numpy()))


def test_db_to_magnitude_inverts_power_to_db():
    magnitude = np.float32([1e-3, 0.5, 1.0, 20.0])
    db = power_to_db(tf.constant(magnitude**2), -200.0)
    assert db_to_magnitude(db).numpy() == pytest.approx(magnitude, rel=1e-5)
    assert db_to_magnitude(tf.constant(-20.0)).numpy() == pytest.approx(0.1)
