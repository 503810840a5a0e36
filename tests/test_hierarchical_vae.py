"""The hierarchy: whitened groups, KL from closed forms, no path round the latents, balancing, free bits."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.layers import FromPrior
from spectrovae.models.hierarchical_vae import HierarchicalVAE, balancing_weights, resample_group
from spectrovae.representations import LogSTFT

SHAPE = (64, 16, 1)


def make(shape=SHAPE, **options):
    return HierarchicalVAE(shape, preset="tiny", **options)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.0, 1.0, shape).astype(np.float32)


def stirred(model, seed=0):
    """Give every weight, also those that start at zero, some value, so that all paths are live."""
    random = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(0.0, 0.05, weight.shape))
    return model


def arrays(structure):
    return [np.asarray(x, float) for x in tf.nest.flatten(structure)]


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_are_a_vector_and_maps_from_coarse_to_fine(groups):
    model = make(groups=groups, latent_dim=5)
    shapes = [z.shape for z in model.encoder(noise(2, *SHAPE))]
    assert shapes == [(2, 5), (2, 2, 1, 2), (2, 4, 2, 2)][:groups]
    assert [f"kl_{group}" in [m.name for m in model.metrics] for group in range(4)] == [
        group < groups for group in range(4)
    ]


def test_priors_start_as_standard_normals():
    """At the start z = u in every group, whatever the groups above hold."""
    decoder = keras.models.clone_model(make().decoder)  # on its own, as in its file
    names = [layer.name for layer in decoder.layers if isinstance(layer, FromPrior)]
    assert names == ["latent_1", "latent_2"]
    latents = [tf.random.normal((3, *x.shape[1:]), seed=1) for x in decoder.inputs]
    inside = keras.Model(decoder.inputs, [decoder.get_layer(name).output for name in names])
    for z, u in zip(inside(latents), latents[1:]):
        np.testing.assert_array_equal(z, u)
    moved = stirred(keras.models.clone_model(make().decoder))
    inside = keras.Model(moved.inputs, [moved.get_layer(name).output for name in names])
    for z, u in zip(inside(latents), latents[1:]):
        assert np.abs(np.asarray(z) - np.asarray(u)).max() > 1e-2


def test_kl_of_whitened_latents_is_that_of_the_latents_themselves():
    """KL(q(u) || N(0, I)) = KL(q(z) || N(m, s^2)) in closed form and by SciPy's densities on draws of z."""
    random = np.random.default_rng(0)
    prior_mean, log_std, mean, log_variance = random.normal(0.0, 1.0, (4, 6))
    layer = FromPrior()
    prior = np.concatenate([prior_mean, log_std])[None].astype(np.float32)
    z_mean = np.asarray(layer(mean[None].astype(np.float32), prior))[0]
    prior_std = np.exp(5.0 * np.tanh(log_std / 5.0))
    np.testing.assert_allclose(z_mean, prior_mean + prior_std * mean, rtol=1e-4, atol=1e-5)
    std = np.exp(0.5 * log_variance)
    whitened = 0.5 * (mean**2 + std**2 - 1.0 - log_variance)
    z_std = prior_std * std
    latent = np.log(prior_std / z_std) + (z_std**2 + (z_mean - prior_mean) ** 2) / (2.0 * prior_std**2) - 0.5
    np.testing.assert_allclose(latent, whitened, atol=1e-5)
    draws = layer((mean + std * random.standard_normal((100000, 6))).astype(np.float32), np.repeat(prior, 100000, 0))
    q, p = scipy.stats.norm(z_mean, z_std), scipy.stats.norm(prior_mean, prior_std)
    sampled = np.mean(q.logpdf(draws) - p.logpdf(draws), axis=0)
    np.testing.assert_allclose(sampled, latent, atol=0.02 + 0.02 * latent.max())


def test_losses_recomputed():
    model, features = stirred(make(beta=2.5)), noise(6, *SHAPE)
    means, log_variances = (arrays(x) for x in model.posteriors(features))
    groups = [
        (0.5 * (m**2 + np.exp(v) - 1.0 - v)).reshape(6, -1).sum(axis=1).mean() for m, v in zip(means, log_variances)
    ]
    prediction = np.asarray(model.reconstruct(features), float)
    sigma = 0.3
    model.decoder.get_layer("sigma").log_sigma.assign([np.log(sigma)])
    nll = -scipy.stats.norm.logpdf(features, prediction, sigma).sum(axis=(1, 2, 3)).mean()
    model.compile()
    found = model.evaluate(features, batch_size=6, verbose=0, return_dict=True)
    assert [found[f"kl_{group}"] for group in range(3)] == pytest.approx(groups, rel=1e-3)
    assert found["kl"] == pytest.approx(sum(groups), rel=1e-3)
    assert found["reconstruction"] == pytest.approx(nll, rel=1e-3)
    assert found["loss"] == pytest.approx(nll + 2.5 * sum(groups), rel=1e-3)


def test_nothing_passes_round_the_latents():
    """With the latents fixed, the path that trains gives the same whatever it is shown; sampled, it does not."""
    model = stirred(make())
    fixed = [tf.random.normal((2, *x.shape[1:]), seed=3) for x in model.decoder.inputs]
    given = {tuple(z.shape): z for z in fixed}
    assert len(given) == 3
    model.sampling.call = lambda mean, log_variance: given[tuple(mean.shape)] + 0.0 * mean
    outputs = [np.asarray(model(noise(2, *SHAPE, seed=seed), training=True)["features"]) for seed in (1, 2)]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_allclose(outputs[0], model.decoder(fixed), atol=1e-5)
    del model.sampling.call
    outputs = [np.asarray(model(noise(2, *SHAPE, seed=seed), training=True)["features"]) for seed in (1, 2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    assert [tuple(x.shape[1:]) for x in model.decoder.inputs] == [tuple(z.shape[1:]) for z in fixed]


def test_a_posterior_is_given_the_groups_sampled_above_it():
    model, features = stirred(make()), noise(2, *SHAPE)
    first, again = (arrays(model(features, training=True)["mean"]) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    for one, other in zip(first[1:], again[1:]):
        assert np.abs(one - other).max() > 1e-5
    for one, other in zip(arrays(model(features)["mean"]), arrays(model.encoder(features))):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_balancing_weights_recomputed():
    kl, dims = np.array([12.0, 3.0, 0.0]), [4, 8, 64]
    raw = [(abs(kl[group]) + 0.01) / (dims[group] / 4) for group in range(3)]
    expected = [value / (sum(raw) / 3) for value in raw]
    found = np.asarray(balancing_weights(tf.constant(kl, tf.float32), dims))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.mean() == pytest.approx(1.0)
    kl = tf.Variable(kl.astype(np.float32))
    with tf.GradientTape() as tape:
        charged = tf.reduce_sum(balancing_weights(kl, dims) * kl)
    np.testing.assert_allclose(tape.gradient(charged, kl), expected, rtol=1e-5)


def test_balancing_ends_with_the_warm_up():
    model, features = make(beta=3.0, warmup_steps=3), noise(8, *SHAPE)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    for step in range(5):
        model.reset_metrics()
        logs = model.train_on_batch(features, return_dict=True)
        kl = np.array([logs[f"kl_{group}"] for group in range(3)])
        gamma = np.asarray(balancing_weights(tf.constant(kl, tf.float32), model.dims)) if step < 3 else np.ones(3)
        charged = 3.0 * min(step / 3, 1.0) * (gamma * kl).sum()
        assert logs["loss"] == pytest.approx(logs["reconstruction"] + charged, rel=1e-3, abs=0.1), step
    assert np.ptp(np.asarray(balancing_weights(tf.constant(kl, tf.float32), model.dims))) > 0.1
    resumed = make(beta=3.0, warmup_steps=10)
    resumed.set_weights(model.get_weights())
    assert float(resumed.current_beta()) == pytest.approx(1.5)


def test_free_bits_are_free_in_training_alone():
    model = make(free_bits=0.5)
    assert model.dims == [8, 4, 16]
    found = model.charged_kl(tf.constant([1.0, 3.0, 8.0]))
    np.testing.assert_allclose(found, [4.0, 3.0, 8.0])
    features = noise(8, *SHAPE)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    logs = model.train_on_batch(features, return_dict=True)
    charged = sum(max(0.5 * d, logs[f"kl_{group}"]) for group, d in enumerate(model.dims))
    assert charged > logs["kl"]
    assert logs["loss"] == pytest.approx(logs["reconstruction"] + charged, rel=1e-3)
    found = model.evaluate(features, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["reconstruction"] + found["kl"], rel=1e-3)


def test_resampling_a_group_leaves_the_others():
    latents = [np.ones((200, 30), np.float32), np.ones((200, 2, 3, 4), np.float32)]
    found = resample_group(latents, 1, seed=5)
    assert found[0] is latents[0]
    drawn = np.asarray(found[1])
    assert scipy.stats.kstest(drawn.ravel(), "norm").pvalue > 0.01
    np.testing.assert_array_equal(drawn, resample_group(latents, 1, seed=5)[1])
    assert not np.allclose(drawn, resample_group(latents, 1, seed=6)[1])
    assert np.asarray(resample_group(latents, 0)[0]).shape == (200, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "groups must be 2 or 3, received 4"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"free_bits": -1.0}, "free_bits must be at least 0"),
        ({"free_bits": float("nan")}, "free_bits must be at least 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


# In a codec


@pytest.fixture(scope="module")
def codec():
    model = stirred(make((32, 16, 1)))
    representation = LogSTFT(8000, n_fft=64, hop_length=16)
    return Codec(representation, model.encoder, model.decoder, family="hierarchical-vae", prior=model.prior)


def test_decoding_takes_any_number_of_groups(codec):
    latent = codec.encode(noise(2, 600) - 0.5)
    assert len(latent) == 3
    for count in (1, 2, 3):
        rest = [np.zeros_like(z) for z in latent[count:]]
        np.testing.assert_array_equal(codec.decode(latent[:count]), codec.decode(latent[:count] + rest))
    first = codec.decode(latent[:1], 500, fill="draw", seed=1)
    assert first.shape == (2, 500)
    np.testing.assert_array_equal(codec.decode(latent[:1], 500, fill="draw", seed=1), first)
    for other in (codec.decode(latent[:1], 500, fill="draw", seed=2), codec.decode(latent[:1], 500)):
        assert np.abs(other - first).max() > 1e-4
    for fill in ("mean", "draw"):
        np.testing.assert_array_equal(codec.decode(latent, fill=fill), codec.decode(latent))


def test_generation_draws_every_group(codec):
    random = np.random.default_rng(4)
    drawn = [random.standard_normal((2, 1, *shape)).astype(np.float32) for shape in codec.latent_shapes]
    np.testing.assert_array_equal(codec.generate(2, seed=4), codec.decode(drawn))


@pytest.mark.parametrize(
    ("cut", "options", "message"),
    [
        (lambda z: [], {}, "latent must be shaped"),
        (lambda z: z[1:], {}, "latent must be shaped"),
        (lambda z: [*z, z[0]], {}, "latent must be shaped"),
        (lambda z: [np.float32(1.0)], {}, "latent must be shaped"),
        (lambda z: z[:1], {"fill": "zero"}, "fill must be mean or draw, received 'zero'"),
    ],
)
def test_wrong_groups_are_refused(codec, cut, options, message):
    with pytest.raises(InputError, match=message):
        codec.decode(cut(codec.encode(noise(2, 600) - 0.5)), **options)
