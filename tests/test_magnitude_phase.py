"""Log magnitude with phase: exact, and its phase equal to librosa's."""

import librosa
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.errors import InputError
from spectrovae.representations import MagnitudePhase

# No waveform in [-1, 1] exceeds 6.1 dB, and 160 dB below it float32 ends.
EXACT = {"max_db": 6.1, "dynamic_range": 160.0}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


@pytest.mark.parametrize("phase", ["cos_sin", "instantaneous_frequency"])
@given(
    samples=st.one_of(st.integers(1, 3000), st.integers(3000, 100_000)),
    batch=st.integers(1, 3),
    n_fft=st.sampled_from([16, 128, 400, 512]),
    parts=st.sampled_from([2, 3, 4, 8]),
)
def test_reconstruction_is_exact(phase, samples, batch, n_fft, parts):
    waveform = noise(batch, samples)
    representation = MagnitudePhase(8000, n_fft=n_fft, hop_length=n_fft // parts, phase=phase, **EXACT)
    features = representation(waveform)
    assert features.shape == (batch, *representation.feature_shape(samples))
    again = representation.inverse(features, samples).numpy()
    assert np.linalg.norm(again - waveform) <= 1e-5 * np.linalg.norm(waveform)


def test_level_and_phase_equal_librosa(speech):
    representation = MagnitudePhase(8000, n_fft=512, hop_length=128)
    features = representation.decibels(speech).numpy()
    spectrum = librosa.stft(speech.astype(float), n_fft=512, hop_length=128, pad_mode="constant") / 128.0
    loud = np.abs(spectrum[:, 1:-1]) > 1e-3
    level = 20.0 * np.log10(np.abs(spectrum[:, 1:-1])[loud])
    np.testing.assert_allclose(features[:, 1:, :, 0][loud], level, atol=1e-3)
    unit = (spectrum / np.maximum(np.abs(spectrum), 1e-30))[:, 1:-1][loud]
    np.testing.assert_allclose(features[:, 1:, :, 1][loud], unit.real, atol=1e-3)
    np.testing.assert_allclose(features[:, 1:, :, 2][loud], unit.imag, atol=1e-3)


def test_instantaneous_frequency_of_a_sine_is_its_distance_from_the_bin():
    """In turns a hop beyond the bin's centre, times two: pi is 1."""
    bin_index, detune = 20, 0.3
    frequency = (bin_index + detune) * 8000 / 512
    sine = 0.5 * np.sin(2 * np.pi * frequency * np.arange(8000) / 8000)
    representation = MagnitudePhase(8000, n_fft=512, hop_length=128, phase="instantaneous_frequency")
    found = representation(sine[None].astype(np.float32)).numpy()[0, bin_index, 5:-5, 1]
    np.testing.assert_allclose(found, 2 * detune * 128 / 512, atol=1e-3)


@pytest.mark.parametrize("phase", ["cos_sin", "instantaneous_frequency"])
def test_gradients_are_finite_on_silence(phase):
    representation = MagnitudePhase(8000, n_fft=64, hop_length=16, phase=phase)
    waveform = tf.concat([tf.zeros((1, 300)), tf.constant(noise(1, 300))], axis=1)
    with tf.GradientTape() as tape:
        tape.watch(waveform)
        total = tf.reduce_sum(representation(waveform))
    assert np.isfinite(tape.gradient(total, waveform)).all()
    decoded = tf.zeros((1, *representation.feature_shape(100)))
    with tf.GradientTape() as tape:
        tape.watch(decoded)
        total = tf.reduce_sum(representation.inverse(decoded))
    assert np.isfinite(tape.gradient(total, decoded)).all()


def test_a_decoded_pair_is_brought_back_to_the_unit_circle():
    representation = MagnitudePhase(8000, n_fft=64, hop_length=16)
    features = representation(noise(1, 500)).numpy()
    shrunk = features * np.float32([1.0, 0.1, 0.1])
    np.testing.assert_allclose(representation.inverse(shrunk), representation.inverse(features), atol=1e-5)


def test_wrong_phase():
    with pytest.raises(InputError, match="phase must be one of cos_sin, instantaneous_frequency, received 'polar'"):
        MagnitudePhase(8000, phase="polar")
