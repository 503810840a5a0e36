"""Log mel spectrogram: librosa's levels, and a way back that keeps the sound."""

import warnings

import librosa
import numpy as np
import pytest
import tensorflow as tf

from spectrovae.errors import InputError
from spectrovae.representations import LogMel


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("n_mels", "htk", "norm"), [(40, False, "slaney"), (128, True, None), (256, False, "slaney")])
def test_level_equals_librosa(speech, n_mels, htk, norm, power):
    representation = LogMel(8000, n_fft=512, hop_length=128, n_mels=n_mels, htk=htk, norm=norm, power=power)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # empty filters
        expected = librosa.feature.melspectrogram(
            y=speech.astype(float), sr=8000, n_fft=512, hop_length=128, n_mels=n_mels, htk=htk, norm=norm, power=power,
            pad_mode="constant",
        )  # fmt: skip
        filters = librosa.filters.mel(sr=8000, n_fft=512, n_mels=n_mels, htk=htk, norm=norm)
    reference = filters.max() * 128.0**power
    expected = 20.0 / power * np.log10(np.maximum(expected / reference, 1e-10))
    found = representation.decibels(speech).numpy()[..., 0]
    audible = expected > -60.0
    assert audible.mean() > 0.05
    np.testing.assert_allclose(found[audible], expected[audible], atol=1e-3)
    assert representation.frequencies == pytest.approx(librosa.mel_frequencies(n_mels + 2, fmax=4000, htk=htk)[1:-1])


def test_the_loudest_filter_reads_0_db_for_a_full_scale_sine():
    representation = LogMel(8000, n_fft=512, hop_length=128, n_mels=40, norm=None, max_db=6.0)
    bank = librosa.filters.mel(sr=8000, n_fft=512, n_mels=40, norm=None)
    band, index = np.unravel_index(bank.argmax(), bank.shape)
    sine = np.sin(2 * np.pi * index * 8000 / 512 * np.arange(4000) / 8000).astype(np.float32)
    level = representation.decibels(sine[None]).numpy()[0, band, 8:-8, 0]
    # The Hann window's main lobe spreads over the neighbours, half as high.
    lobe = 20 * np.log10(bank[band, index] + 0.5 * bank[band, index - 1] + 0.5 * bank[band, index + 1])
    assert level == pytest.approx(np.full(len(level), lobe), abs=0.1)


@pytest.mark.parametrize(("n_mels", "bound"), [(80, -13.0), (128, -17.0), (256, -20.0)])
def test_the_way_back(speech, n_mels, bound):
    """Spectral convergence in dB of the sound's STFT magnitudes, and its level."""
    representation = LogMel(8000, n_fft=512, hop_length=128, n_mels=n_mels, dynamic_range=100.0)
    found = representation.inverse(representation(speech), speech.shape[1]).numpy()
    before, after = (np.abs(librosa.stft(x, n_fft=512, hop_length=128, pad_mode="constant")) for x in (speech, found))
    error = np.linalg.norm(before - after, axis=(1, 2)) / np.linalg.norm(before, axis=(1, 2))
    assert 20 * np.log10(error).mean() < bound
    assert 20 * np.log10(np.linalg.norm(found) / np.linalg.norm(speech)) == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_is_finite_on_silence(power):
    representation = LogMel(8000, n_fft=256, hop_length=64, n_mels=20, power=power)
    waveform = tf.zeros((1, 500))
    with tf.GradientTape() as tape:
        tape.watch(waveform)
        total = tf.reduce_sum(representation(waveform))
    assert np.isfinite(tape.gradient(total, waveform)).all()


def test_wrong_arguments():
    with pytest.raises(InputError, match="power must be 1 .*received 3"):
        LogMel(8000, power=3)
    with pytest.raises(InputError, match="empty"):
        LogMel(8000, n_fft=64, n_mels=100)
    with pytest.raises(InputError, match="f_max"):
        LogMel(8000, f_max=5000.0)
