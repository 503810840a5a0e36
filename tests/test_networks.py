"""Encoders and decoders of one vector latent: every architecture, its head, its linear path; the linear one is PCA."""

import itertools

import keras
import numpy as np
import pytest
import scipy.linalg
from sklearn.decomposition import PCA

from spectrovae.errors import InputError
from spectrovae.layers import RandomWarp
from spectrovae.models import VAE, Autoencoder
from spectrovae.models.networks import NETWORKS

FAMILIES = [Autoencoder, VAE]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.0, 1.0, shape).astype(np.float32)


def low_rank(clips=256, shape=(16, 8, 1), rank=4, seed=0):
    """Clips of ``rank`` strong directions and weak noise, about a mean that is not zero."""
    random = np.random.default_rng(seed)
    cells = int(np.prod(shape))
    directions = np.linalg.qr(random.standard_normal((cells, rank)))[0].T
    strong = random.standard_normal((clips, rank)) * np.linspace(3.0, 1.5, rank)
    clips = strong @ directions + 0.02 * random.standard_normal((clips, cells)) + random.uniform(0, 1, cells)
    return clips.astype(np.float32).reshape(-1, *shape)


def rmse(model, features):
    return np.sqrt(np.mean((np.asarray(model.reconstruct(features)) - features) ** 2))


def pca_error(train, test, k):
    reference = PCA(k, svd_solver="full").fit(train.reshape(len(train), -1))
    flat = test.reshape(len(test), -1)
    return np.sqrt(np.mean((reference.inverse_transform(reference.transform(flat)) - flat) ** 2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(64, 16, 1), (33, 1, 1), (7, 5, 2)], ids=str)
def test_every_network_takes_every_shape(family, network, shape):
    """Features of one frame too."""
    model = family(shape, latent_dim=3, preset="tiny", network=network, hidden=20, time_stretch=0.1)
    model.compile(optimizer="adam")
    features = noise(6, *shape)
    assert model.encoder(features).shape == (6, 3)
    assert model.decoder(model.encoder(features)).shape == features.shape
    assert all(np.isfinite(value) for value in model.train_on_batch(features, return_dict=True).values())
    twin = family.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin.reconstruct(features), model.reconstruct(features))


def test_the_dense_network_is_one_hidden_layer_of_400():
    model = VAE((100, 1, 1), latent_dim=2, preset="tiny", network="dense", likelihood="gaussian")
    shapes = {layer.name: layer.kernel.shape for layer in model.encoder.layers if hasattr(layer, "kernel")}
    assert shapes == {"hidden": (100, 400), "mean": (400, 2), "log_variance": (400, 2)}
    shapes = {layer.name: layer.kernel.shape for layer in model.decoder.layers if hasattr(layer, "kernel")}
    assert shapes == {"hidden": (2, 400), "linear": (400, 100), "linear_log_variance": (400, 100)}


def test_the_pooling_head_averages_over_positions():
    features = noise(3, 64, 16, 1)
    for head, units in (("pool", 16), ("flatten", 2 * 1 * 16)):
        model = Autoencoder((64, 16, 1), latent_dim=5, preset="tiny", head=head)
        layers = [model.encoder.get_layer(name) for name in ("down_2", head)]
        maps, found = keras.Model(model.encoder.input, [layer.output for layer in layers])(features)
        expected = np.mean(maps, axis=(1, 2)) if head == "pool" else np.reshape(maps, (3, -1))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert model.encoder.get_layer("curved").kernel.shape == (units, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_latent_norm_gives_each_dimension_mean_0_and_variance_1(family):
    model = family((16, 8, 1), latent_dim=3, preset="tiny", linear="learned", latent_norm=True)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    features = low_rank()
    for _ in range(60):
        model.train_on_batch(features)
    latent = np.asarray(model.encoder(features))
    assert latent.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.05)
    assert latent.std(axis=0) == pytest.approx(np.ones(3), abs=0.1)


def test_the_linear_autoencoder_spans_the_subspace_of_pca():
    features = low_rank()
    model = Autoencoder((16, 8, 1), latent_dim=4, preset="tiny", network="linear")
    model.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 80 * 8)))
    model.fit(features, epochs=80, batch_size=32, verbose=0)
    decoder = model.decoder.get_layer("linear").kernel.numpy()  # (latent, cells)
    reference = PCA(4, svd_solver="full").fit(features.reshape(len(features), -1))
    angles = scipy.linalg.subspace_angles(decoder.T, reference.components_.T)
    assert np.rad2deg(angles.max()) < 2.0
    assert rmse(model, features) < 1.05 * pca_error(features, features, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_principal_components_training_starts_at_pca(family):
    features, new = low_rank(seed=1), low_rank(40, seed=1)
    model = family((16, 8, 1), latent_dim=3, preset="tiny", linear="principal")
    silent = model.decoder(np.ones((1, 3), np.float32))
    model.initialise(np.array_split(features, 5))
    assert rmse(model, new) == pytest.approx(pca_error(features, new, 3), rel=1e-3)
    latent = np.asarray(model.encoder(features))
    np.testing.assert_allclose(np.cov(latent.T), np.eye(3), atol=1e-3)
    assert not np.allclose(model.decoder(np.ones((1, 3), np.float32)), silent, atol=0.01)
    # The path stays; the convolutions learn.
    before = [layer.get_weights()[0] for layer in map(model.decoder.get_layer, ("linear", "up_0"))]
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(features, epochs=2, verbose=0)
    after = [layer.get_weights()[0] for layer in map(model.decoder.get_layer, ("linear", "up_0"))]
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1])


def test_with_principal_components_the_posterior_starts_as_that_of_the_linear_model():
    """Bayes in closed form: x = W z + noise, W the principal directions times their standard deviations."""
    features = low_rank()
    model = VAE((16, 8, 1), latent_dim=4, preset="tiny", linear="principal")
    model.initialise([features])
    flat = features.reshape(len(features), -1)
    reference = PCA(4, svd_solver="full").fit(flat)
    noise_variance = np.var(flat - reference.inverse_transform(reference.transform(flat)), axis=0, ddof=1).mean()
    weights = reference.components_.T * np.sqrt(reference.explained_variance_)
    covariance = np.linalg.inv(np.eye(4) + weights.T @ weights / noise_variance)
    _, (log_variance,) = model.posteriors(features[:2])
    np.testing.assert_allclose(np.asarray(log_variance), np.log(np.diag(covariance))[None].repeat(2, 0), atol=0.02)


@pytest.mark.parametrize("family", [Autoencoder, VAE])
def test_fewer_clips_than_dimensions_still_initialise(family):
    features = low_rank(3)
    model = family((16, 8, 1), latent_dim=8, preset="tiny")
    model.initialise([features])
    assert rmse(model, features) < 1e-3
    model.compile(optimizer="adam")
    assert np.isfinite(model.train_on_batch(features, return_dict=True)["loss"])


@pytest.mark.parametrize(("network", "linear"), itertools.product(NETWORKS, ["learned", "principal"]))
def test_initialise_changes_nothing_else(network, linear):
    model = Autoencoder((16, 8, 1), latent_dim=3, preset="tiny", network=network, linear=linear)
    before = model.get_weights()
    found = model.initialise([low_rank(30)])
    same = all(np.array_equal(one, other) for one, other in zip(before, model.get_weights()))
    assert same == (found is None) == (not (network == "convolutional" and linear == "principal"))


def test_autoencoder_loss_is_the_vae_likelihood_and_orders_like_the_mean_squared_error():
    features = noise(12, 7, 5, 2)
    model = Autoencoder((7, 5, 2), preset="tiny", linear="learned")
    model.compile()
    found = model.evaluate(features, batch_size=12, verbose=0, return_dict=True)["loss"]
    error = np.mean((np.asarray(model.reconstruct(features), float) - features) ** 2, axis=(0, 1, 2))
    expected = 35 * (0.5 * np.log(error) + 0.5 + 0.5 * np.log(2 * np.pi))  # cells / 2 log(MSE), and a constant
    assert found == pytest.approx(expected.sum(), rel=5e-3)  # the soft bound of sigma below
    assert model.prior is None


def test_the_network_trains_on_the_warped_features_and_is_compared_with_them():
    model = Autoencoder((16, 32, 1), preset="tiny", time_stretch=0.5, time_shift=3)
    features = noise(4, 16, 32, 1)
    outputs = model(features, training=True)
    target = np.asarray(outputs["target"])
    assert not np.allclose(target, features, atol=0.05)
    found = float(model.compute_loss(features, y_pred=outputs))
    assert found == pytest.approx(float(model.compute_loss(target, y_pred={"features": outputs["features"]})))
    assert "target" not in model(features)


def test_random_warp_equals_numpy_interpolation():
    layer, inputs = RandomWarp(0.3, 4.0, 0.2, seed=3), noise(5, 12, 20, 2)
    twin = keras.random.SeedGenerator(3)
    tempo, start, pitch = np.asarray(keras.random.uniform((3, 5, 1), -1.0, 1.0, seed=twin))[..., 0]
    np.testing.assert_array_equal(layer(inputs), inputs)  # as it is outside of training
    found = np.asarray(layer(inputs, training=True))
    for clip, channel in itertools.product(range(5), range(2)):
        frames = np.arange(20) * np.exp(0.3 * tempo[clip]) + 4.0 * start[clip]
        bins = np.arange(12) * np.exp(0.2 * pitch[clip])
        # np.interp holds the ends
        rows = np.stack([np.interp(frames, np.arange(20), row) for row in inputs[clip, :, :, channel]])
        expected = np.stack([np.interp(bins, np.arange(12), column) for column in rows.T], axis=1)
        np.testing.assert_allclose(found[clip, :, :, channel], expected, atol=1e-5)
    assert not np.allclose(layer(inputs, training=True), found)
    np.testing.assert_array_equal(RandomWarp()(inputs, training=True), inputs)
    assert RandomWarp.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "recurrent"}, "network must be one of convolutional, dense, linear, received 'recurrent'"),
        ({"head": "max"}, "head must be one of flatten, pool"),
        ({"linear": "none"}, "linear must be one of learned, principal"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"time_stretch": 1.5}, "time_stretch must lie between 0 and 1"),
        ({"bin_stretch": -0.1}, "bin_stretch must lie between 0 and 1"),
        ({"time_shift": -1}, "time_shift"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_bad_options_are_refused(family, options, message):
    with pytest.raises(InputError, match=message):
        family((64, 16, 1), preset="tiny", **options)
