"""One frame: SciPy's spectrum, and ways back that a steady sound survives."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import tensorflow as tf

from spectrovae.dsp.mdct import mdct
from spectrovae.errors import InputError
from spectrovae.evaluation.perturbations import octaves, perturb
from spectrovae.representations import Spectrum
from spectrovae.representations.spectrum import CONTENTS

EXACT = {"max_db": 6.1, "dynamic_range": 160.0}


def tone(fundamental=220.0, samples=8064, amplitudes=(0.4, 0.2, 0.1)):
    time = np.arange(samples) / 8000.0
    partials = [a * np.sin(2 * np.pi * fundamental * (n + 1) * time) for n, a in enumerate(amplitudes)]
    return np.sum(partials, axis=0).astype(np.float32)[None]


def middle(waveform, n_fft=2048):
    start = (waveform.shape[1] - n_fft) // 2
    return waveform[:, start : start + n_fft].astype(float)


def test_magnitude_and_phase_equal_scipy(speech):
    frame = middle(speech) * scipy.signal.windows.hann(2048, sym=False)
    expected = scipy.fft.rfft(frame) / 512.0
    representation = Spectrum(8000, content="magnitude_phase", scale="linear", **{**EXACT, "max_db": 0.0})
    found = representation(speech).numpy()
    assert found.shape == (len(speech), 2050, 1, 1)
    np.testing.assert_allclose(found[:, :1025, 0, 0], np.abs(expected), atol=1e-5)
    loud = np.abs(expected) > 1e-4
    turns = found[:, 1025:, 0, 0] - np.angle(expected) / np.pi
    assert np.abs((turns[loud] + 1.0) % 2.0 - 1.0).max() < 1e-2
    db = Spectrum(8000, dynamic_range=120.0)(speech).numpy()[:, :, 0, 0] * 120.0 - 120.0
    np.testing.assert_allclose(db[loud], 20 * np.log10(np.abs(expected[loud])), atol=0.02)


def test_mdct_of_the_frame_equals_the_transform(speech):
    found = Spectrum(8000, content="mdct", scale="linear", dynamic_range=160.0)(speech).numpy()[:, :, 0, 0]
    expected = mdct(middle(speech), 2048, "sine").numpy()[:, 1] / (np.sqrt(2048) / 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2047, 2048, 2049, 9000])
def test_any_length(samples):
    representation = Spectrum(8000)
    features = representation(np.full((2, samples), 0.1, np.float32))
    assert features.shape == (2, *representation.feature_shape(samples)) == (2, 1025, 1, 1)
    assert representation.inverse(features, samples).shape == (2, samples)


@pytest.mark.parametrize("normalisation", ["range", "per_bin", "per_example"])
@pytest.mark.parametrize("content", ["magnitude", "magnitude_phase", "mdct"])
@pytest.mark.parametrize("scale", ["db", "linear"])
def test_levels_come_back_from_every_kind(scale, content, normalisation, speech):
    representation = Spectrum(8000, content=content, scale=scale, normalisation=normalisation, dynamic_range=60.0)
    representation.adapt([speech])
    levels = representation.decibels(speech)
    again = representation.to_db(representation.from_db(levels), representation.statistics(levels)).numpy()
    np.testing.assert_allclose(again[..., 0], levels.numpy()[..., 0], atol=0.1)
    if content == "magnitude_phase":
        np.testing.assert_allclose(again[..., 1], levels.numpy()[..., 1], atol=1e-5)


@pytest.mark.parametrize("normalisation", ["range", "per_bin"])
@pytest.mark.parametrize("content", ["magnitude", "magnitude_phase"])
def test_db_per_unit_is_the_slope_of_the_levels_and_0_for_phases(content, normalisation, speech):
    representation = Spectrum(8000, content=content, normalisation=normalisation)
    representation.adapt([speech])
    features = representation(speech[:1]).numpy()
    slopes = np.array(representation.db_per_unit)
    assert slopes.shape == (features.shape[1],)
    step = representation.to_db(features + 0.01).numpy() - representation.to_db(features).numpy()
    np.testing.assert_allclose(step[0, :, 0, 0] / 0.01, slopes[:1025], rtol=0.02)
    assert not slopes[1025:].any()


@pytest.mark.parametrize("content", CONTENTS)
def test_every_level_has_a_frequency(content):
    representation = Spectrum(8000, n_fft=64, content=content)
    db = representation.decibels(tone(250.0)).numpy()
    assert representation.frequencies.shape == (representation.bins,) == (db.shape[1],)
    tilted = perturb(db, 3.0, [0], name="tilt", representation=representation)
    slope = 3.0 * octaves(representation.frequencies)
    np.testing.assert_allclose(np.abs(tilted - db)[0, :, 0, 0], np.abs(slope), atol=1e-4)


@pytest.mark.parametrize("content", ["magnitude", "magnitude_phase"])
def test_a_steady_tone_survives_the_repeated_frame(content):
    """Frequency and level of each partial, read off a long transform."""
    fundamental = 8000 / 2048 * 60  # on a bin: 234.4 Hz
    representation = Spectrum(8000, content=content, **EXACT)
    found = representation.inverse(representation(tone(fundamental)), 16384).numpy()[0]
    level = 20 * np.log10(np.std(found[2048:-2048]) / np.std(tone(fundamental)))
    assert level == pytest.approx(0.0, abs=0.5)
    spectrum = np.abs(scipy.fft.rfft(found * scipy.signal.windows.hann(16384, sym=False))) / 4096
    # Each partial at its own frequency, with the two neighbours of its main lobe, eight long bins away.
    for n, amplitude in enumerate((0.4, 0.2, 0.1)):
        peak = 8 * 60 * (n + 1)
        np.testing.assert_allclose(spectrum[[peak - 8, peak, peak + 8]] / amplitude, [0.41, 0.82, 0.41], atol=0.03)
        spectrum[peak - 11 : peak + 12] = 0.0
    assert spectrum[50:].max() < 0.01


def test_oscillators_play_the_spectrum_at_any_fundamental():
    representation = Spectrum(8000, **EXACT)
    features = representation(tone(250.0))
    found = representation.oscillators(features, 250.0, 8000).numpy()[0]
    spectrum = np.abs(scipy.fft.rfft(found)) / 4000
    for n, amplitude in enumerate((0.4, 0.2, 0.1)):
        assert spectrum[250 * (n + 1)] == pytest.approx(amplitude, rel=0.15)
    assert spectrum[1000:].max() < 1e-3
    higher = representation.oscillators(features, 500.0, 8000).numpy()[0]
    assert np.argmax(np.abs(scipy.fft.rfft(higher))) == 500


@pytest.mark.parametrize("content", ["magnitude", "magnitude_phase", "mdct"])
@pytest.mark.parametrize("scale", ["db", "linear"])
def test_gradients_are_finite_on_silence(scale, content):
    representation = Spectrum(8000, n_fft=64, content=content, scale=scale)
    waveform = tf.zeros((1, 100))
    with tf.GradientTape() as tape:
        tape.watch(waveform)
        total = tf.reduce_sum(representation(waveform))
    assert np.isfinite(tape.gradient(total, waveform)).all()


def test_wrong_arguments():
    with pytest.raises(InputError, match="content must be one of magnitude, magnitude_phase, mdct"):
        Spectrum(8000, content="cepstrum")
    with pytest.raises(InputError, match="scale must be db or linear"):
        Spectrum(8000, scale="bark")
    with pytest.raises(InputError, match="multiple of 4"):
        Spectrum(8000, n_fft=1025)
    with pytest.raises(InputError, match="fundamental must"):
        Spectrum(8000).oscillators(np.zeros((1, 1025, 1, 1)), 0.0, 10)
    with pytest.raises(InputError, match="oscillators need magnitudes"):
        Spectrum(8000, content="mdct").oscillators(np.zeros((1, 1024, 1, 2)), 100.0, 10)
