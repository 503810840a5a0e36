"""Latents of every family as points, and what is measured of points and paths, beside scikit-learn and closed forms."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from spectrovae import models
from spectrovae.codec import Codec
from spectrovae.evaluation.latent_space import (
    NEIGHBOURS,
    LatentSpace,
    effective_dimensions,
    nearest_db,
    neighbour_accuracy,
    neighbour_r2,
    path_figures,
    spread_db,
)
from spectrovae.representations import LogSTFT

SAMPLES = 1984
FAMILIES = {
    "autoencoder": ("numbers", [(8,)], []),
    "vae": ("posterior", [(8,)], []),
    "hierarchical-vae": ("posterior", None, []),
    "vq-vae": ("codes", None, []),
    "unet": ("numbers", None, ["skip"]),
}


def tiny(family, **options):
    representation = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=2)
    shape = representation.feature_shape(SAMPLES)
    trainer = models.FAMILIES[family](shape, preset="tiny", db_per_unit=80.0, **options)
    return Codec(representation, trainer.encoder, trainer.decoder, family=family, prior=trainer.prior, name=family)


@pytest.mark.parametrize("family", FAMILIES)
def test_points_of_every_family_decode_to_the_reconstruction(family):
    kind, shapes, held = FAMILIES[family]
    codec = tiny(family)
    features = np.random.default_rng(0).uniform(0, 1, (3, *codec.encoder.inputs[0].shape[1:])).astype(np.float32)
    space = LatentSpace(codec, features[:1])
    assert space.kind == kind
    if shapes:
        assert [group.shape for group in space.groups] == shapes
    assert [name.split("_")[0] for name in space.held][:1] == held
    points = space.encode(features)
    assert [z.shape for z in points] == [(3, group.dimensions) for group in space.groups]
    expected = np.asarray(codec.representation.to_db(codec.reconstruct_features(features)))
    np.testing.assert_allclose(space.decode(space.encode_whole(features)), expected, atol=2e-3)
    # what is not moved is the first clip's
    np.testing.assert_allclose(space.decode(points)[0], expected[0], atol=2e-3)


def test_codes_are_their_vectors():
    codec = tiny("vq-vae")
    features = np.random.default_rng(0).uniform(0, 1, (2, *codec.encoder.inputs[0].shape[1:])).astype(np.float32)
    space = LatentSpace(codec, features[:1])
    (points,) = space.encode(features)
    vectors = np.asarray(codec.quantiser.lookup(np.asarray(codec.encoder(features))))
    np.testing.assert_array_equal(points, vectors.reshape(2, -1))
    # a move that leaves every vector nearest to its own code changes nothing
    np.testing.assert_array_equal(space.decode([points]), space.decode([points + 1e-6]))


def test_a_unet_without_skips_is_an_autoencoder():
    codec = tiny("unet", skips=())
    features = np.zeros((1, *codec.encoder.inputs[0].shape[1:]), np.float32)
    assert LatentSpace(codec, features).held == []


def test_neighbours_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    points = random.normal(size=(60, 4))
    classes = np.where(points[:, 0] + 0.5 * random.normal(size=60) > 0, "a", "b")  # two of five never tie
    predicted = cross_val_predict(KNeighborsClassifier(NEIGHBOURS), points, classes, cv=LeaveOneOut())
    assert neighbour_accuracy(points, classes) == pytest.approx(np.mean(predicted == classes))
    values = points[:, 1] + 0.1 * random.normal(size=60)
    predicted = cross_val_predict(KNeighborsRegressor(NEIGHBOURS), points, values, cv=LeaveOneOut())
    expected = 1 - np.mean((values - predicted) ** 2) / np.var(values)
    assert neighbour_r2(points, values) == pytest.approx(expected)
    assert neighbour_r2(points, np.ones(60)) == 0


def test_a_tie_goes_to_the_nearest():
    points = np.array([[0.0], [1.0], [1.5], [10.0], [11.0], [12.0]])
    classes = np.array(["x", "p", "q", "r", "s", "t"])
    # all five others are neighbours, each of another class: the first clip's nearest is of its own, the second's is not
    assert neighbour_accuracy(points, np.array(["p", "p", "q", "r", "s", "t"])) == pytest.approx(1 / 6)
    assert neighbour_accuracy(points, classes) == 0


def test_effective_dimensions():
    assert effective_dimensions(np.full(7, 3.0), 21.0) == pytest.approx(7)
    assert effective_dimensions(np.array([5.0, 0.0]), 5.0) == pytest.approx(1)
    assert effective_dimensions(np.zeros(3), 0.0) == 0


def test_distances_are_rms():
    random = np.random.default_rng(0)
    a, b = random.normal(-60, 5, (5, 30)), random.normal(-60, 5, (7, 30))
    np.testing.assert_allclose(nearest_db(a, b), cdist(a, b).min(axis=1) / np.sqrt(30))
    assert spread_db(a) == pytest.approx(cdist(a, a)[~np.eye(5, dtype=bool)].mean() / np.sqrt(30))
    assert nearest_db(a, a, themselves=True).min() > 1
    np.testing.assert_allclose(nearest_db(a, a), 0, atol=1e-5)
    assert spread_db(a[:1]) == 0


def test_paths_of_known_shape():
    line = np.linspace(0, 1, 11)[:, None] * np.full((1, 50), 8.0)
    straight = path_figures(line)
    assert straight == pytest.approx({"direct_db": 8.0, "ratio": 1.0, "largest_step": 1.0, "variation": 0.0}, abs=1e-9)
    angle = np.linspace(0, np.pi / 2, 1001)
    arc = path_figures(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert arc["ratio"] == pytest.approx(np.pi / 2 / np.sqrt(2), rel=1e-5)
    assert arc["variation"] == pytest.approx(0, abs=1e-6)
    jump = path_figures(np.concatenate([np.zeros((5, 3)), np.ones((6, 3))]))
    assert jump["ratio"] == 1
    assert jump["largest_step"] == pytest.approx(10)  # the one of ten steps in which all happens
    assert jump["variation"] == pytest.approx(3)
    assert path_figures(np.ones((4, 3))) is None
