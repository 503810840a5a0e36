"""MDCT as a representation: exact through every companding, level in dB, signs kept."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp.mdct import mdct
from spectrovae.errors import InputError
from spectrovae.representations import MDCT


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


@pytest.mark.parametrize("companding", ["asinh", "mu_law", "linear", "sign_log"])
@given(
    samples=st.one_of(st.integers(1, 3000), st.integers(3000, 100_000)),
    frame_length=st.sampled_from([8, 256, 1000, 4096]),
    window=st.sampled_from(["vorbis", "sine", "kbd"]),
)
def test_reconstruction_is_exact(companding, samples, frame_length, window):
    waveform = noise(2, samples)
    representation = MDCT(
        8000, frame_length=frame_length, window=window, companding=companding, max_db=20.0, dynamic_range=180.0
    )
    features = representation(waveform)
    assert features.shape == (2, *representation.feature_shape(samples))
    again = representation.inverse(features, samples).numpy()
    assert np.linalg.norm(again - waveform) <= 1e-5 * np.linalg.norm(waveform)


@pytest.mark.parametrize("normalisation", ["range", "per_bin", "per_example"])
@pytest.mark.parametrize("companding", ["asinh", "mu_law", "linear", "sign_log"])
def test_every_normalisation_comes_back(companding, normalisation, speech):
    representation = MDCT(8000, companding=companding, normalisation=normalisation, max_db=20.0, dynamic_range=180.0)
    representation.adapt([speech])
    statistics = representation.statistics(representation.decibels(speech))
    again = representation.inverse(representation(speech), speech.shape[1], statistics).numpy()
    assert np.linalg.norm(again - speech) <= 1e-5 * np.linalg.norm(speech)
    assert (representation.from_db(representation.decibels(speech)).numpy() == 0).all() == (speech == 0).all()


def test_coefficients_are_those_of_the_transform(speech):
    found = MDCT(8000, frame_length=512, companding="linear", max_db=0.0)(speech).numpy()[..., 0]
    expected = mdct(speech, 512).numpy() / (np.sqrt(512) / 2)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 1), atol=1e-6)


def test_asinh_tames_the_tails_of_speech(speech):
    """Fisher's kurtosis, 0 for a Gaussian, of what is not digital silence."""
    kurtosis = {}
    for companding in ("linear", "asinh"):
        features = MDCT(8000, companding=companding, max_db=-10.0)(speech).numpy()
        kurtosis[companding] = scipy.stats.kurtosis(features[features != 0])
    assert kurtosis["linear"] > 50.0
    assert abs(kurtosis["asinh"]) < 10.0


def test_a_full_scale_sine_reads_about_0_db():
    sine = np.sin(2 * np.pi * 1010.0 * np.arange(8000) / 8000).astype(np.float32)
    level = MDCT(8000, max_db=20.0).decibels(sine[None]).numpy()[0, :, 4:-4, 0].max(axis=0)
    assert np.mean(level) == pytest.approx(0.0, abs=3.0)


@pytest.mark.parametrize("normalisation", ["range", "per_bin"])
def test_features_and_levels_are_one_thing(normalisation, speech):
    representation = MDCT(8000, normalisation=normalisation, dynamic_range=160.0, max_db=0.0)
    representation.adapt([speech])
    features = representation(speech).numpy()
    np.testing.assert_allclose(representation.from_db(representation.to_db(features)), features, atol=1e-4)
    levels = representation.decibels(speech).numpy()
    assert set(np.unique(levels[..., 1])) <= {-1.0, 0.0, 1.0}
    assert np.array_equal(np.sign(features[..., 0]) * (levels[..., 0] > -159.9), levels[..., 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"companding": "cubic"}, "companding must be one of asinh, mu_law, linear, sign_log"),
        ({"frame_length": 6}, "multiple of 4"),
        ({"window": "hann"}, "window"),
        ({"scale": 0.0}, "must be positive"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        MDCT(8000, **options)
