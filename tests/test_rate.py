"""Bits a clip and the error they leave, against closed forms."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from spectrovae.codec import Codec
from spectrovae.evaluation.rate import TOLERANCE, gaussian_bound, rate_distortion
from spectrovae.models import FAMILIES
from spectrovae.representations import LogSTFT

DB = 80.0


def linear_codec(directions, kinds=(tf.float32,)):
    """Projects on orthonormal rows and back."""

    def encoder(features):
        return np.reshape(features, (len(features), -1)) @ directions.T

    def decoder(latent):
        return np.reshape(np.asarray(latent) @ directions, (len(latent), 8, 4, 1))

    inputs = keras.Input((8, 4, 1))
    return SimpleNamespace(
        encoder=_Callable(encoder, keras.Model(inputs, inputs)),
        decoder=decoder,
        pack=lambda parts: parts[0],
        latent_shapes=[(len(directions),)],
        latent_types=list(kinds),
        representation=SimpleNamespace(to_db=lambda features, statistics=None: DB * np.asarray(features)),
    )


class _Callable:
    def __init__(self, function, model):
        self._function, self.layers, self.input = function, model.layers, model.input

    def __call__(self, features):
        return self._function(features)


def test_noise_is_worth_what_shannon_says():
    """Noise n on each of k orthonormal coordinates adds k n to the squared error, so n is known in closed form."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.standard_normal((32, 6)))[0].T.astype(np.float32)
    scales = np.linspace(0.2, 2.0, 6)
    features = (random.standard_normal((4000, 6)) * scales) @ directions
    features = np.float32(features + 0.05 * random.standard_normal((4000, 32))).reshape(-1, 8, 4, 1)
    codec = linear_codec(directions)
    found = rate_distortion(codec, features)
    latent = codec.encoder(features)
    left = np.mean(np.sum(np.square(codec.decoder(latent) - features), axis=(1, 2, 3)))
    noise = ((1.0 + TOLERANCE) ** 2 - 1.0) * left / 6
    expected = np.sum(0.5 * np.log2(1.0 + np.var(latent, axis=0) / noise))
    assert found["kind"] == "noise"
    assert found["numbers"] == 6
    assert found["bits"] == pytest.approx(expected, rel=0.01)
    assert found["distortion_db"] == pytest.approx(DB * (1.0 + TOLERANCE) * math.sqrt(left / 32), rel=2e-3)


def test_the_error_is_of_cells_of_the_level_in_the_dB_of_each_clip():
    """Features may have other cells than the level, as samples and phases have, and each clip a scale of its own."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.standard_normal((32, 6)))[0].T.astype(np.float32)
    features = random.standard_normal((20, 8, 4, 1)).astype(np.float32)
    scales = random.uniform(40.0, 120.0, (20, 1, 1, 1))
    codec = linear_codec(directions)
    codec.representation.to_db = lambda features, statistics: statistics * np.asarray(features)[:, :3]
    found = rate_distortion(codec, features, scales, batch_size=8)
    error = scales * (codec.decoder(codec.encoder(features)) - features)[:, :3]
    assert found["distortion_db"] == pytest.approx((1.0 + TOLERANCE) * np.sqrt(np.mean(error**2)), rel=2e-3)


def test_a_posterior_is_worth_its_divergence(speech):
    representation = LogSTFT(8000, n_fft=128, hop_length=64)
    features = np.asarray(representation(speech))[:, :, :96]
    features = np.concatenate(np.split(features, 6, axis=2))
    vae = FAMILIES["vae"](features.shape[1:], preset="tiny", db_per_unit=DB)
    codec = Codec(representation, vae.encoder, vae.decoder)
    found = rate_distortion(codec, features)
    assert found["kind"] == "posterior"
    assert found["bits"] == pytest.approx(np.mean(codec.kl_divergence(features)) / math.log(2.0), rel=1e-5)
    again, other = rate_distortion(codec, features), rate_distortion(codec, features, seed=1)
    assert again["distortion_db"] == found["distortion_db"] != other["distortion_db"]
    quiet = np.sqrt(np.mean(np.square(codec.reconstruct_features(features) - features))) * DB
    assert found["distortion_db"] > quiet


def test_bound_of_equal_variances_is_the_closed_form():
    """k directions of variance v: D = k v 2^(-2 R / k) over the cells."""
    bits = np.array([4.0, 16.0, 40.0])
    spectrum = np.concatenate([np.full(10, 3.0), np.full(5, 1e-9)])
    found = gaussian_bound(spectrum, 100, DB, bits)
    np.testing.assert_allclose(found, DB * np.sqrt(10 * 3.0 * 2.0 ** (-2.0 * bits / 10) / 100), rtol=0.01)
    assert gaussian_bound(spectrum, 100, DB, np.zeros(1))[0] == pytest.approx(DB * math.sqrt(0.3), rel=1e-3)


def test_under_per_example_scaling_dB_are_those_of_the_clips_own_range():
    """Every feature is decoded 0.1 too high: a tenth of each clip's range in dB."""
    representation = LogSTFT(8000, n_fft=64, hop_length=32, normalisation="per_example")
    random = np.random.default_rng(0)
    waveforms = np.float32(random.standard_normal((6, 992)) * 10.0 ** random.uniform(-2.0, -0.5, (6, 1)))
    shape = representation.feature_shape(992)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    encoder = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    codec = Codec(representation, encoder, keras.Model(latent, keras.layers.Rescaling(1.0, 0.1)(latent)))
    statistics = np.asarray(representation.statistics(representation.decibels(waveforms)))
    found = rate_distortion(codec, np.asarray(representation(waveforms)), statistics)
    expected = 0.1 * np.sqrt(np.mean(np.square(np.ptp(statistics, axis=1))))
    assert expected < found["distortion_db"] <= 1.001 * (1.0 + TOLERANCE) * expected
    assert found["distortion_db"] < 0.9 * 0.1 * 80.0  # of the nominal range
