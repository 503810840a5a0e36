"""Griffin-Lim against librosa's, on real speech."""

import librosa
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp.phase import griffin_lim

N_FFT, HOP = 512, 128


def magnitude_of(waveform, n_fft=N_FFT, hop_length=HOP):
    spectrum = librosa.stft(waveform, n_fft=n_fft, hop_length=hop_length, pad_mode="constant")
    return np.float32(np.swapaxes(np.abs(spectrum), -1, -2))


def convergence(magnitude, waveform, n_fft=N_FFT, hop_length=HOP):
    """Spectral convergence in dB, averaged over the rows."""
    error = np.linalg.norm(magnitude - magnitude_of(waveform, n_fft, hop_length), axis=(1, 2))
    return float(np.mean(20.0 * np.log10(error / np.linalg.norm(magnitude, axis=(1, 2)))))


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (512, 256), (256, 64), (400, 160)])
def test_as_good_as_librosa_at_the_same_iterations(speech, n_fft, hop_length):
    magnitude = magnitude_of(speech, n_fft, hop_length)
    ours = griffin_lim(tf.constant(magnitude), n_fft, hop_length, iterations=32, momentum=0.99, length=8064)
    theirs = np.stack([
        librosa.griffinlim(
            row.T, n_iter=32, hop_length=hop_length, n_fft=n_fft, momentum=0.99, length=8064,
            pad_mode="constant", random_state=0,
        )
        for row in magnitude
    ])  # fmt: skip
    ours, theirs = (convergence(magnitude, x, n_fft, hop_length) for x in (ours.numpy(), theirs))
    assert ours < theirs + 1.0
    assert ours < -20.0


def test_momentum_and_iterations_help(speech):
    magnitude = magnitude_of(speech)

    def reached(**options):
        return convergence(magnitude, griffin_lim(tf.constant(magnitude), N_FFT, HOP, length=8064, **options).numpy())

    assert reached(momentum=0.99) < reached(momentum=0.0) - 3.0
    assert reached(iterations=32) < reached(iterations=4) - 3.0 < reached(iterations=0) - 6.0


def test_seed_decides_the_result(speech):
    magnitude = tf.constant(magnitude_of(speech[:1]))
    first, again, other = (griffin_lim(magnitude, N_FFT, HOP, iterations=4, seed=seed).numpy() for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 1e-3


def test_a_row_does_not_depend_on_its_place_or_its_batch(speech):
    magnitude = tf.constant(magnitude_of(speech[:5]))
    together = griffin_lim(magnitude, N_FFT, HOP, iterations=8).numpy()
    turned = griffin_lim(magnitude[::-1], N_FFT, HOP, iterations=8).numpy()[::-1]
    alone = np.concatenate([griffin_lim(magnitude[i : i + 1], N_FFT, HOP, iterations=8).numpy() for i in range(5)])
    np.testing.assert_allclose(turned, together, atol=1e-4)
    np.testing.assert_allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("bins", [256, 80, 258])
def test_mel_or_nyquist_less_magnitudes_are_refused(bins):
    with pytest.raises(ValueError, match=f"257 bins for n_fft=512, received {bins}; invert a mel"):
        griffin_lim(tf.ones([1, 10, bins]), 512, 128)


@given(samples=st.integers(1, 600), hop_length=st.sampled_from([8, 24, 32]))
def test_any_length(samples, hop_length):
    waveform = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    magnitude = tf.constant(magnitude_of(np.pad(waveform, ((0, 0), (0, 64))), 64, hop_length))
    for length in (samples, None):
        found = griffin_lim(magnitude, 64, hop_length, iterations=2, length=length).numpy()
        assert found.shape == (2, (magnitude.shape[1] - 1) * hop_length if length is None else length)
        assert np.all(np.isfinite(found))


def test_one_sample_and_silence():
    one_frame = griffin_lim(tf.constant(magnitude_of(np.ones((1, 300)), 64, 16)[:, :1]), 64, 16, length=1).numpy()
    assert one_frame.shape == (1, 1)
    assert np.isfinite(one_frame).all()
    assert not np.any(griffin_lim(tf.zeros([2, 20, 33]), 64, 16).numpy())


def test_in_a_graph_of_unknown_shape(speech):
    @tf.function(input_signature=[tf.TensorSpec([None, None, N_FFT // 2 + 1], tf.float32), tf.TensorSpec([], tf.int32)])
    def graph(magnitude, length):
        return griffin_lim(magnitude, N_FFT, HOP, iterations=4, length=length)

    for rows, samples in [(1, 1), (3, 2000), (2, 8064)]:
        magnitude = tf.constant(magnitude_of(np.pad(speech[:rows, :samples], ((0, 0), (0, 600)))))
        expected = griffin_lim(magnitude, N_FFT, HOP, iterations=4, length=samples).numpy()
        np.testing.assert_allclose(graph(magnitude, samples).numpy(), expected, atol=1e-4)
