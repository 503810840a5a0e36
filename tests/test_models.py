"""Every model family: its parts on their own, its training, its losses recomputed naively."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from families import SPECTROGRAM_FAMILIES, shapes

from spectrovae.errors import InputError
from spectrovae.layers import CalibratedSigma, Sampling
from spectrovae.models import FAMILIES, VAE, UNet
from spectrovae.models.base import layers_of, sigma_of
from spectrovae.representations import Chunks, Subbands
from spectrovae.training.precision import copy_weights, float32_twin


def make(family, shape=None, **options):
    return FAMILIES[family](shape or shapes(family)[0], preset="tiny", **options)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.0, 1.0, shape).astype(np.float32)


def arrays(structure):
    return [np.asarray(x) for x in tf.nest.flatten(structure)]


@pytest.fixture(scope="module")
def features_of(speech, speech_features):
    """Family -> 72 features of spoken digits that it takes."""
    pieces = np.concatenate(np.split(np.asarray(speech)[:, :6144], 6, axis=1))
    waveforms = {"rave": Subbands(8000, bands=4)(pieces), "waveform-vae": Chunks(8000, length=1024)(pieces)}
    return lambda family: np.asarray(waveforms.get(family, speech_features))


@pytest.fixture
def policy():
    """Set a precision policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


# Every family


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_takes_what_the_encoder_returns(family, index):
    shape = shapes(family)[index]
    model = make(family, shape)
    features = noise(3, *shape)
    latent = model.encoder(features)
    decoded = model.decoder(latent)
    assert decoded.shape == features.shape
    assert decoded.dtype == tf.float32
    np.testing.assert_array_equal(model.reconstruct(features), decoded)
    np.testing.assert_allclose(model(features)["features"], decoded, atol=1e-6)
    for output, found in zip(model.encoder.outputs, arrays(latent), strict=True):
        assert all(size in (None, real) for size, real in zip(output.shape[1:], found.shape[1:], strict=True))
    # A hierarchy walks down the same layers in both.
    parts = {id(w) for w in model.encoder.trainable_weights + model.decoder.trainable_weights}
    assert parts == {id(w) for w in model.trainable_weights}


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_weights(family):
    models = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        models.append(make(family))
    first, again, other = (model.trainable_weights[0].numpy() for model in models)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_from_config(family):
    shape = shapes(family)[0]
    model = make(family, db_per_unit=[float(n) for n in range(1, shape[0] + 1)], seed=5)
    config = model.get_config()
    twin = type(model).from_config(config)
    assert twin.get_config() == config
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin.reconstruct(noise(2, *shape)), model.reconstruct(noise(2, *shape)))


@pytest.fixture(scope="module")
def parts_folder(tmp_path_factory):
    """Encoders and decoders of every family and shape, each in a file, with what goes in and comes out."""
    folder = tmp_path_factory.mktemp("parts")
    for family in FAMILIES:
        for shape in shapes(family)[:2]:
            model, name = make(family, shape), f"{family}-{shape[0]}"
            features = noise(2, *shape)
            latent = model.encoder(features)
            for part, given, expected in (
                ("encoder", [features], latent),
                ("decoder", latent, model.decoder(latent)),
            ):
                (folder / part).mkdir(exist_ok=True)
                getattr(model, part).save(folder / part / f"{name}.keras")
                np.savez(folder / part / f"{name}-in.npz", *arrays(given))
                np.savez(folder / part / f"{name}-out.npz", *arrays(expected))
    return folder


def test_a_part_works_alone_in_a_fresh_process(parts_folder, fresh_process):
    checked = fresh_process(
        """
import pathlib, sys
import keras
import numpy as np
import spectrovae.layers
for file in sorted(pathlib.Path(sys.argv[1]).rglob("*.keras")):
    given, expected = (list(np.load(f"{file.with_suffix('')}-{end}.npz").values()) for end in ("in", "out"))
    found = keras.saving.load_model(file)(given if len(given) > 1 else given[0])
    found = found if isinstance(found, (list, tuple)) else [found]
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(np.asarray(one), other, atol=1e-5)
    print(file.stem)
assert "spectrovae.models" not in sys.modules
""",
        parts_folder,
    )
    names = sorted(f"{family}-{shape[0]}" for family in FAMILIES for shape in shapes(family)[:2])
    assert sorted(checked.split()) == sorted(2 * names)  # encoder and decoder


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_lowers_the_loss_on_speech(family, features_of):
    features = features_of(family)
    model = make(family, db_per_unit=80.0)
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    before = model.evaluate(features, verbose=0, return_dict=True)
    history = model.fit(features, epochs=8, batch_size=24, validation_data=(features[:24],), verbose=0).history
    after = model.evaluate(features, verbose=0, return_dict=True)
    measure = "rmse_db" if family in SPECTROGRAM_FAMILIES else "distance"
    if measure == "rmse_db":
        assert after["loss"] < before["loss"]
        assert after["rmse_db"] < 0.7 * before["rmse_db"]
    assert history["loss"][-1] < history["loss"][0]
    assert history[measure][-1] < 0.95 * history[measure][0]
    assert {"loss", measure, "val_loss", f"val_{measure}"} <= set(history)
    assert all(np.isfinite(values).all() for values in history.values())


@pytest.mark.parametrize("family", SPECTROGRAM_FAMILIES)
@pytest.mark.parametrize("db_per_unit", [80.0, np.linspace(1.0, 30.0, 64).tolist()], ids=["number", "per bin"])
def test_rmse_db_is_in_db(family, db_per_unit, speech_features):
    model = make(family, db_per_unit=db_per_unit)
    model.compile()
    found = model.evaluate(speech_features[:20], batch_size=7, verbose=0, return_dict=True)["rmse_db"]
    error = (np.asarray(model.reconstruct(speech_features[:20])) - speech_features[:20])[..., 0]
    expected = np.sqrt(np.mean((error * np.reshape(db_per_unit, (-1, 1))) ** 2))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_step_is_finite_and_lossless_in_type(family, policy):
    policy("mixed_bfloat16")
    model = make(family)
    model.compile(optimizer="adam")
    features = noise(4, *shapes(family)[0])
    outputs = model(features, training=True)
    assert all(x.dtype == tf.float32 for x in tf.nest.flatten(outputs))
    assert model.compute_loss(features, y_pred=outputs, training=False).dtype == tf.float32
    logs = [model.train_on_batch(features, return_dict=True) for _ in range(2)]
    assert all(np.isfinite(value) for log in logs for value in log.values())
    assert all(w.dtype == "float32" for w in model.trainable_variables)
    assert {layer.compute_dtype for layer in model.encoder.layers} & {"bfloat16"}


def check_xla(family):
    """A step compiled by XLA equals one that is not."""
    features, losses = noise(4, *shapes(family)[0]), {}
    start = make(family).get_weights()
    for jit_compile in (False, True):
        model = make(family)
        model.set_weights(start)
        model.compile(optimizer="adam", jit_compile=jit_compile)
        model.train_on_batch(features)
        losses[jit_compile] = model.evaluate(features, verbose=0, return_dict=True)["loss"]
        assert any(not np.allclose(now, then) for now, then in zip(model.get_weights(), start))
    # The logarithms of a spectral distance feel what rounding leaves of near silence.
    assert losses[True] == pytest.approx(losses[False], rel=0.02 if family in SPECTROGRAM_FAMILIES else 0.05)


def test_a_step_compiled_by_xla_equals_one_that_is_not():
    """Other families: tests/nightly/test_every_family.py."""
    check_xla("vae")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((64, 16, 1), {"preset": "huge"}, "preset must be one of tiny, small, (base|paper), received 'huge'"),
        ((64, 16), {}, r"feature_shape must be \(bins, frames, channels\)"),
        ((64, 0, 1), {}, "feature_shape must be"),
        ((64, 16.5, 1), {}, "feature_shape must be"),
    ],
)
def test_bad_arguments_are_refused(family, shape, options, message):
    with pytest.raises(InputError, match=message):
        FAMILIES[family](shape, **options)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_every_family_trains_on_jax(fresh_process):
    trained = fresh_process(
        """
import sys
sys.modules["tensorflow"] = None
import keras
import numpy as np
from spectrovae.models import FAMILIES
assert keras.backend.backend() == "jax"
shapes = {"rave": (4, 256, 1), "waveform-vae": (1024, 1, 1)}
for name, family in FAMILIES.items():
    keras.utils.set_random_seed(0)
    shape = shapes.get(name, (64, 16, 1))
    features = np.random.default_rng(0).uniform(0.0, 1.0, (32, *shape)).astype("float32")
    model = family(shape, preset="tiny")
    model.compile(optimizer="adam")
    before = model.evaluate(features, verbose=0, return_dict=True)
    logs = model.fit(features, batch_size=4, verbose=0).history
    after = model.evaluate(features, verbose=0, return_dict=True)
    assert set(logs) == set(before), (logs, before)
    assert after["loss"] < before["loss"], (name, before, after)
    print(name)
    if model.stages > 1:
        model.enter(2)
        model.compile(optimizer=model.make_optimizer(1e-3))
        assert np.isfinite(model.fit(features, batch_size=4, verbose=0).history["adversarial"]).all()
# Every likelihood and schedule, and what depends on the data.
features = np.random.default_rng(0).uniform(0.0, 1.0, (32, 64, 16, 1)).astype("float32")
for likelihood in ("gaussian", "fixed_sigma", "bernoulli", "alpha_rmse"):
    model = FAMILIES["vae"]((64, 16, 1), preset="tiny", likelihood=likelihood, alpha=1e3, warmup="cyclical",
                            warmup_steps=8, free_bits=0.1, latent_norm=True, head="pool", time_stretch=0.1)
    model.compile(optimizer="adam")
    logs = model.fit(features, batch_size=4, verbose=0).history
    assert np.isfinite(logs["loss"]).all(), (likelihood, logs)
model = FAMILIES["autoencoder"]((64, 16, 1), preset="tiny")
model.initialise([features])
# The warm-up moves under jax too, where the step is traced once.
options = {"warmup_steps": 4, "likelihood": "alpha_mse", "alpha": 1.0, "beta": 100.0}
model = FAMILIES["vae"]((64, 16, 1), preset="tiny", **options)
model.compile(optimizer=keras.optimizers.SGD(0.0))
for step in range(6):
    model.reset_metrics()
    logs = model.train_on_batch(features, return_dict=True)
    beta = 100.0 * min(step / 4, 1.0)
    np.testing.assert_allclose(logs["loss"], logs["reconstruction"] + beta * logs["kl"], rtol=1e-3)
""",
        KERAS_BACKEND="jax",
    )
    assert trained.split() == list(FAMILIES)


# VAE


def test_vae_evaluates_the_posterior_mean_and_trains_on_samples():
    model = make("vae")
    features = noise(4, 64, 16, 1)
    outputs = model(features)
    np.testing.assert_allclose(outputs["mean"], model.encoder(features), atol=1e-6)
    np.testing.assert_allclose(outputs["features"], model.decoder(outputs["mean"]), atol=1e-6)
    drawn = [np.asarray(model(features, training=True)["features"]) for _ in range(2)]
    assert not np.allclose(drawn[0], drawn[1], atol=1e-4)


def test_vae_decoder_gets_nothing_but_the_latent():
    model = make("vae", latent_dim=5)
    assert [tuple(x.shape) for x in model.decoder.inputs] == [(None, 5)]
    assert [tuple(x.shape) for x in model.encoder.outputs] == [(None, 5)]
    assert not {id(w) for w in model.encoder.weights} & {id(w) for w in model.decoder.weights}


def moments(model, features):
    (mean,), (log_variance,) = model.posteriors(features)
    mean, log_variance = np.asarray(mean, float), np.asarray(log_variance, float)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance).sum(axis=1)
    return kl, np.asarray(model.reconstruct(features), float)


def evaluated(model, features):
    model.compile()
    return model.evaluate(features, batch_size=len(features), verbose=0, return_dict=True)


@pytest.mark.parametrize("shape", [(64, 16, 1), (7, 5, 2)], ids=str)
def test_sigma_likelihood_recomputed(shape):
    """In evaluation the sigma of each channel is the decoder's, whatever the batch."""
    model, features = make("vae", shape, beta=2.5), noise(6, *shape)
    kl, prediction = moments(model, features)
    sigma = np.linspace(0.2, 0.5, shape[-1])
    model.decoder.get_layer("sigma").log_sigma.assign(np.log(sigma))
    nll = -scipy.stats.norm.logpdf(features, prediction, sigma).sum(axis=(1, 2, 3))
    for batch_size in (6, 4):
        model.compile()
        found = model.evaluate(features, batch_size=batch_size, verbose=0, return_dict=True)
        assert found["reconstruction"] == pytest.approx(nll.mean(), rel=1e-4)
        assert found["kl"] == pytest.approx(kl.mean(), rel=1e-4)
        assert found["loss"] == pytest.approx(nll.mean() + 2.5 * kl.mean(), rel=1e-4)


def test_sigma_in_training_is_the_best_of_the_batch_and_its_running_mean_is_kept():
    model, features = make("vae", (7, 5, 2)), noise(6, 7, 5, 2)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    seen = []
    for _ in range(3):
        outputs = model(features, training=True)
        rmse = np.sqrt(np.mean((np.asarray(outputs["features"], float) - features) ** 2, axis=(0, 1, 2)))
        seen.append(rmse**2)
        nll = -scipy.stats.norm.logpdf(features, outputs["features"], rmse).sum(axis=(1, 2, 3))
        found = model.reconstruction_loss(features, outputs, training=True)
        assert np.asarray(found) == pytest.approx(nll, rel=1e-3)
    layer = model.decoder.get_layer("sigma")
    variance = seen[0]
    for count, found in enumerate(seen[1:], 1):
        variance = (count * variance + 9.0 * found) / (count + 9.0)
    assert sigma_of(model.decoder) == pytest.approx(np.sqrt(variance), rel=1e-4)
    twin = make("vae", (7, 5, 2))
    twin.decoder.set_weights(model.decoder.get_weights())
    np.testing.assert_array_equal(twin.decoder.get_layer("sigma").log_sigma, layer.log_sigma)


@pytest.mark.parametrize("family", SPECTROGRAM_FAMILIES)
def test_sigma_of_a_decoder_as_it_is_saved(family, tmp_path):
    model = make(family)
    model.decoder.save(tmp_path / "decoder.keras")
    decoder = keras.saving.load_model(tmp_path / "decoder.keras")
    found = sigma_of(decoder)
    assert (found is None) == (family in ("autoencoder", "unet"))
    if found is not None:
        layers_of(decoder, CalibratedSigma)[0].log_sigma.assign([-7.5])
        assert sigma_of(decoder) == pytest.approx(np.exp([-7.5]))


def test_a_batch_of_near_silence_does_not_outweigh_the_others():
    """Its error is a thousandth of the others'; its gradient is at most ten times theirs."""
    model = make("vae", (7, 5, 2), linear="learned")
    features = noise(6, 7, 5, 2)
    prediction = tf.Variable(features)
    norms = []
    for error in (0.3, 0.3, 3e-4):
        prediction.assign(features + error * noise(6, 7, 5, 2, seed=1))
        with tf.GradientTape() as tape:
            nll = tf.reduce_mean(model.calibrated_nll(features, prediction, training=True))
        norms.append(np.linalg.norm(tape.gradient(nll, prediction)))
    assert norms[2] <= 10.0 * norms[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_summary_after_a_step(family, capsys):
    model, features = make(family), noise(4, *shapes(family)[0])
    model.compile()
    model.train_on_batch(features)
    model.summary()
    assert f'Model: "{model.name}"' in capsys.readouterr().out
    (layer,) = [layer for layer in model.layers if isinstance(layer, Sampling)] or [Sampling()]
    found = layer.compute_output_spec(keras.KerasTensor((None, 3)), keras.KerasTensor((None, 3)))
    assert (found.shape, found.dtype) == ((None, 3), "float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_another_loss_and_sample_weights_are_refused(family):
    model, features = make(family), noise(4, *shapes(family)[0])
    for options in ({"loss": "mse"}, {"metrics": ["mae"]}, {"weighted_metrics": ["mae"]}):
        with pytest.raises(InputError, match="has its own loss and metrics"):
            model.compile(**options)
    with pytest.raises(InputError, match="sample_weight is not supported"):
        model.compute_loss(features, y_pred=model(features), sample_weight=np.ones(4))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_of_none_is_chosen_and_kept(family):
    first, second = make(family, seed=None), make(family, seed=None)
    assert first.seed != second.seed
    assert FAMILIES[family].from_config(first.get_config()).seed == first.seed


@pytest.mark.parametrize("family", SPECTROGRAM_FAMILIES)
def test_without_its_scale_the_error_is_no_db(family):
    model, features = make(family), noise(4, *shapes(family)[0])
    model.compile()
    found = model.evaluate(features, verbose=0, return_dict=True)
    error = np.asarray(model.reconstruct(features)) - features
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error[..., 0] ** 2)), rel=1e-4)
    assert "rmse_db" not in found


@pytest.mark.parametrize("family", ["autoencoder", "vae"])
def test_a_linear_path_left_silent_is_named(family):
    model, features = make(family, linear="principal"), noise(4, *shapes(family)[0])
    model.compile()
    with pytest.warns(UserWarning, match="call initialise"):
        model.fit(features, verbose=0)
    model = make(family, linear="principal")
    model.initialise([features])
    model.compile()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(features, verbose=0)


@pytest.mark.parametrize("family", SPECTROGRAM_FAMILIES)
def test_silence_does_not_make_the_gradients_larger(family, speech_features):
    """Digital silence is 0 in every cell; in the first steps no gradient is more than ten times that without it."""
    options = {"skip_noise": 0.1} if family == "unet" else {}

    def largest(features):
        keras.utils.set_random_seed(0)
        model = make(family, **options)
        model.initialise([features])
        optimizer = keras.optimizers.Adam(1e-3)
        norms = []
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = model.compute_loss(features, y_pred=model(features, training=True), training=True)
            gradients = tape.gradient(loss, model.trainable_variables)
            pairs = [(g, v) for g, v in zip(gradients, model.trainable_variables) if g is not None]
            norms.append(np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g, _ in pairs)))
            optimizer.apply_gradients(pairs)
        return max(norms)

    loud = speech_features[:32]
    ends, clips, everything = loud.copy(), loud.copy(), np.zeros_like(loud)
    ends[:, :, 8:] = 0.0
    clips[16:] = 0.0
    expected = largest(loud)
    for features in (ends, clips, everything):
        assert largest(features) <= 10.0 * expected


def test_gaussian_likelihood_recomputed():
    model, features = make("vae", (7, 5, 2), likelihood="gaussian", linear="learned"), noise(6, 7, 5, 2)
    latent = model.encoder(features)
    mean, log_variance = keras.Model(model.decoder.input, model.decoder.get_layer("likelihood").output)(latent)
    np.testing.assert_allclose(mean, model.decoder(latent), atol=1e-6)
    assert np.std(log_variance) > 1e-3
    scale = np.exp(0.5 * np.asarray(log_variance, float))
    nll = -scipy.stats.norm.logpdf(features, np.asarray(mean, float), scale).sum(axis=(1, 2, 3))
    assert evaluated(model, features)["reconstruction"] == pytest.approx(nll.mean(), rel=1e-4)


def test_fixed_sigma_likelihood_recomputed():
    model, features = make("vae", likelihood="fixed_sigma", sigma=0.3), noise(6, 64, 16, 1)
    nll = -scipy.stats.norm.logpdf(features, moments(model, features)[1], 0.3).sum(axis=(1, 2, 3))
    assert evaluated(model, features)["reconstruction"] == pytest.approx(nll.mean(), rel=1e-4)


def test_bernoulli_likelihood_recomputed():
    model, features = make("vae", likelihood="bernoulli"), noise(6, 64, 16, 1)
    prediction = moments(model, features)[1]
    assert 0.0 < prediction.min() < prediction.max() < 1.0
    entropy = -(features * np.log(prediction) + (1.0 - features) * np.log1p(-prediction)).sum(axis=(1, 2, 3))
    assert evaluated(model, features)["reconstruction"] == pytest.approx(entropy.mean(), rel=1e-4)


@pytest.mark.parametrize("likelihood", ["alpha_rmse", "alpha_mse"])
def test_published_likelihoods_recomputed(likelihood):
    model, features = make("vae", likelihood=likelihood, alpha=300.0), noise(6, 64, 16, 1)
    kl, prediction = moments(model, features)
    error = np.mean((features - prediction) ** 2, axis=(1, 2, 3))
    error = np.sqrt(error) if likelihood == "alpha_rmse" else error
    found = evaluated(model, features)
    assert found["reconstruction"] == pytest.approx(300.0 * error.mean(), rel=1e-4)
    assert found["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    assert found["loss"] == pytest.approx(300.0 * error.mean() + kl.mean(), rel=1e-4)


def linear_warm_up(step):
    return min(step / 8, 1.0)


def cyclical_warm_up(step):
    """Four cycles of two steps: in each, one step up from 0, then one held."""
    return [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0][step]


def log_warm_up(step):
    return [0.001 * 1000.0 ** (step / 8), 1.0][step > 8]


@pytest.mark.parametrize("expected", [linear_warm_up, cyclical_warm_up, log_warm_up])
def test_warm_up(expected):
    options = {"beta": 3.0, "warmup": expected.__name__.split("_")[0]}
    model, features = make("vae", warmup_steps=8, **options), noise(8, 64, 16, 1)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    for step in range(10):
        beta = 3.0 * expected(step)
        assert float(model.current_beta()) == pytest.approx(beta)
        model.reset_metrics()
        logs = model.train_on_batch(features, return_dict=True)
        assert logs["loss"] == pytest.approx(logs["reconstruction"] + beta * logs["kl"], rel=1e-4)
    resumed = make("vae", warmup_steps=20, **options)
    resumed.set_weights(model.get_weights())
    half = {"linear": 0.5, "log": 0.001**0.5, "cyclical": 0.0}[options["warmup"]]
    assert float(resumed.current_beta()) == pytest.approx(3.0 * half)
    assert float(model.current_beta(training=False)) == 3.0
    found = model.evaluate(features, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["reconstruction"] + 3.0 * found["kl"], rel=1e-4)


def test_a_long_cyclical_warm_up_rises_for_half_of_each_quarter():
    model = make("vae", warmup="cyclical", warmup_steps=800)
    for step, beta in [(0, 0.0), (25, 0.25), (99, 0.99), (100, 1.0), (199, 1.0), (200, 0.0), (250, 0.5), (799, 1.0)]:
        model.steps.assign(float(step))
        assert float(model.current_beta()) == pytest.approx(beta, abs=1e-4)


def test_free_bits_spare_a_dimension_in_training_alone():
    options = {"likelihood": "fixed_sigma", "sigma": 1.0, "beta": 2.0}
    model, features = make("vae", free_bits=0.7, **options), noise(8, 64, 16, 1)
    (mean,), (log_variance,) = model.posteriors(features)
    mean, log_variance = np.asarray(mean, float), np.asarray(log_variance, float)
    kl = np.mean(0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance), axis=0)
    spared = sum(max(0.7, k) for k in kl)
    assert spared > kl.sum() + 0.1
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    logs = model.train_on_batch(features, return_dict=True)
    assert logs["kl"] == pytest.approx(kl.sum(), rel=1e-3)
    assert logs["loss"] == pytest.approx(logs["reconstruction"] + 2.0 * spared, rel=1e-4)
    found = model.evaluate(features, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["reconstruction"] + 2.0 * kl.sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood must be one of sigma, .*, received 'poisson'"),
        ({"warmup": "sudden"}, "warmup must be one of linear, cyclical, log, received 'sudden'"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"beta": -1.0}, "beta must not be negative"),
        ({"free_bits": float("nan")}, "free_bits must not be negative"),
        ({"likelihood": "bernoulli", "linear": "principal"}, "use linear='learned'"),
    ],
)
def test_bad_options_of_the_vae_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        VAE((64, 16, 1), preset="tiny", **options)


def test_bernoulli_refuses_features_outside_0_and_1():
    model = make("vae", likelihood="bernoulli")
    model.initialise([noise(4, 64, 16, 1), noise(3, 64, 16, 1)])
    for wrong in (-0.1, 1.2):
        features = noise(4, 64, 16, 1)
        features[2, 3, 4] = wrong
        with pytest.raises(InputError, match=r"needs features in \[0, 1\]"):
            model.initialise([noise(3, 64, 16, 1), features])


# U-Net


def test_unet_encoder_returns_bottleneck_and_skips():
    model = make("unet", (100, 33, 1))
    shapes = [x.shape[1:3] for x in model.encoder(noise(1, 100, 33, 1))]
    assert shapes == [(25, 9), (50, 18), (100, 36)]


def test_unet_decoder_uses_every_skip():
    model = make("unet")
    latent = model.encoder(noise(2, 64, 16, 1))
    full = np.asarray(model.decoder(latent))
    for index in range(len(latent)):
        without = [x * 0.0 if i == index else x for i, x in enumerate(latent)]
        assert np.abs(np.asarray(model.decoder(without)) - full).max() > 1e-3, f"input {index} is not used"


@pytest.mark.parametrize("skips", [(), (0,), (1,), (0, 1)], ids=str)
def test_unet_keeps_the_skips_asked_for(skips, tmp_path):
    model = UNet((100, 33, 1), preset="tiny", skips=skips)
    shapes = [x.shape[1:3] for x in arrays(model.encoder(noise(1, 100, 33, 1)))]
    assert shapes == [(25, 9), *[{0: (100, 36), 1: (50, 18)}[level] for level in reversed(skips)]]
    twin = UNet.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    features = noise(2, 100, 33, 1)
    np.testing.assert_array_equal(twin.reconstruct(features), model.reconstruct(features))
    for part in ("encoder", "decoder"):
        getattr(model, part).save(tmp_path / f"{part}.keras")
    encoder, decoder = (keras.saving.load_model(tmp_path / f"{part}.keras") for part in ("encoder", "decoder"))
    np.testing.assert_allclose(decoder(encoder(features)), model.reconstruct(features), atol=1e-6)


def test_unet_noise_is_on_the_skips_in_training_alone():
    model, quiet = UNet((64, 16, 1), preset="tiny", skip_noise=1.0), UNet((64, 16, 1), preset="tiny")
    quiet.encoder.set_weights(model.encoder.get_weights())
    quiet.decoder.set_weights(model.decoder.get_weights())
    features = noise(4, 64, 16, 1)
    clean = np.asarray(quiet(features, training=True)["features"])
    np.testing.assert_array_equal(model(features)["features"], clean)
    first, second = (np.asarray(model(features, training=True)["features"]) for _ in range(2))
    assert np.abs(first - clean).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3
    skip = np.asarray(model.encoder(features)[1])
    drawn = np.stack([np.asarray(model._noisy(skip)) - skip for _ in range(50)])
    assert drawn.std() == pytest.approx(skip.std(), rel=0.05)


@pytest.mark.parametrize(("options", "message"), [
    ({"skips": (2,)}, r"skips must be among \(0, 1\) in preset 'tiny', received \(2,\)"),
    ({"skip_noise": -1.0}, "skip_noise must be 0 or more"),
])  # fmt: skip
def test_unet_refuses(options, message):
    with pytest.raises(InputError, match=message):
        UNet((64, 16, 1), preset="tiny", **options)


def test_unet_loss_is_the_rmse():
    model, features = make("unet"), noise(6, 64, 16, 1)
    error = np.asarray(model.reconstruct(features), float) - features
    expected = np.sqrt(np.mean(error**2, axis=(1, 2, 3))).mean()
    assert evaluated(model, features)["loss"] == pytest.approx(expected, rel=1e-4)


# VQ-VAE


def test_vq_vae_decoder_gets_nothing_but_codes():
    for options, shape, bits in (
        ({}, (8, 4), 8 * 4 * 8),
        ({"stages": 3, "codebook_size": 16}, (8, 4, 3), 8 * 4 * 3 * 4),
        ({"quantiser": "scalar", "levels": (4, 4)}, (8, 4), 8 * 4 * 4),
    ):
        model = make("vq-vae", **options)
        assert [(tuple(x.shape), x.dtype) for x in model.decoder.inputs] == [((None, *shape), "int32")]
        assert [(tuple(x.shape), x.dtype) for x in model.encoder.outputs] == [((None, *shape), "int32")]
        assert model.bits_per_example == pytest.approx(bits)
        codes = np.asarray(model.encoder(noise(3, 64, 16, 1)))
        assert codes.min() >= 0
        assert codes.max() < model.quantiser.codebook_size


def test_vq_vae_trains_on_the_vectors_that_it_decodes():
    """The way round the codes, which the gradient takes, gives what the codes give."""
    for options in ({}, {"stages": 2}, {"gradient": "straight_through"}, {"quantiser": "scalar"}):
        model, features = make("vq-vae", **options), noise(4, 64, 16, 1)
        np.testing.assert_allclose(model(features)["features"], model.reconstruct(features), atol=1e-5)


def test_vq_vae_encoder_and_decoder_have_the_same_codebook_after_training(speech_features, tmp_path):
    model = make("vq-vae", codebook_size=32)
    model.compile(optimizer="adam")
    start = np.array(model.quantiser.codebook.entries)
    model.fit(speech_features, epochs=2, batch_size=24, verbose=0)
    parts = []
    for part in ("encoder", "decoder"):
        getattr(model, part).save(tmp_path / f"{part}.keras")
        parts.append(keras.saving.load_model(tmp_path / f"{part}.keras"))
    books = [np.asarray(parts[0].get_layer("quantiser").codebook.entries), parts[1].get_layer("codebook").entries]
    np.testing.assert_array_equal(*books)
    assert not np.allclose(books[0], start, atol=1e-2)
    np.testing.assert_allclose(parts[1](parts[0](speech_features)), model.reconstruct(speech_features), atol=1e-6)


def test_vq_vae_loss_recomputed():
    model = make("vq-vae", commitment_weight=3.0, diversity_weight=0.5)
    features = noise(6, 64, 16, 1)
    outputs = model(features)
    prediction = np.asarray(model.reconstruct(features), float)
    sigma = 0.3
    model.decoder.get_layer("sigma").log_sigma.assign([np.log(sigma)])
    nll = -scipy.stats.norm.logpdf(features, prediction, sigma).sum(axis=(1, 2, 3)).mean()
    commitment, unused = (np.mean(outputs[name]) for name in ("commitment", "unused"))
    found = evaluated(model, features)
    assert found["reconstruction"] == pytest.approx(nll, rel=1e-4)
    assert found["commitment"] == pytest.approx(commitment, rel=1e-4)
    assert found["loss"] == pytest.approx(nll + 3.0 * commitment + 0.5 * unused, rel=1e-4)


def test_vq_vae_copy_in_float32_has_its_codebook(policy):
    policy("mixed_bfloat16")
    model = make("vq-vae")
    model.compile(optimizer="adam")
    model.train_on_batch(noise(8, 64, 16, 1))
    twin = float32_twin(model)
    copy_weights(model, twin)
    for one, other in zip(twin.quantiser.weights, model.quantiser.weights):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(twin.decoder(model.encoder(noise(2, 64, 16, 1))).numpy().std(), 0.3, atol=0.3)


def code_use(model, features):
    """(part of the codebook used, perplexity) where a code's patch is more than 1 dB above the floor somewhere."""
    codes = np.asarray(model.encoder(features))
    batch, rows, columns = codes.shape
    patches = features.reshape(batch, rows, 64 // rows, columns, 16 // columns)
    active = patches.max(axis=(2, 4)) > 1.0 / 80.0
    counts = np.bincount(codes[active], minlength=model.quantiser.codebook_size)
    return np.mean(counts > 0), np.exp(scipy.stats.entropy(counts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiser": "lattice"}, "quantiser must be one of vector, scalar, received 'lattice'"),
        ({"codebook_size": 1}, "codebook_size must be"),
        ({"quantiser": "scalar", "levels": (8, 2)}, "levels must be"),
        ({"commitment_weight": -1.0}, "commitment_weight must not be negative"),
    ],
)
def test_vq_vae_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make("vq-vae", **options)
