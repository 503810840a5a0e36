"""RAVE: the paper's sizes, losses against NumPy, two players in one step, a fit of two stages."""

import json
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from interrupts import history, interrupted
from test_spectral_losses import naive_distance

from spectrovae import losses, training
from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.layers import SoftSigmoid
from spectrovae.models import RAVE
from spectrovae.models.rave import PRESETS, TwoRates, build_decoder, build_encoder
from spectrovae.representations import Subbands

SHAPE = (4, 256, 1)


def features(count=2, seed=0, rms=0.1):
    """Noise in each sub-band."""
    return (rms * np.random.default_rng(seed).standard_normal((count, *SHAPE))).astype(np.float32)


def made(**options):
    return RAVE(SHAPE, **{"preset": "tiny", "latent_dim": 5, **options})


@pytest.mark.parametrize(("version", "wanted"), [("v1", 17.62e6), ("v2", 31.56e6)])
def test_the_paper_size_has_the_papers_parameters(version, wanted):
    """Counts of the authors' networks of 16 bands, without the filter bank."""
    options = types.SimpleNamespace(
        feature_shape=(16, 128, 1), capacity=PRESETS["paper"]["capacity"] * (3 if version == "v2" else 2) // 2,
        ratios=PRESETS["paper"]["ratios"], latent_dim=128, version=version, causal=False, noise=True,
        activation="leaky_relu", seed=0,
    )  # fmt: skip
    found = sum(
        int(np.prod(weight.shape))
        for model in (build_encoder(options), build_decoder(options))
        for weight in model.trainable_weights
    )
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("causal", [False, True])
def test_any_multiple_of_the_ratios_goes_through(version, causal):
    trainer = made(version=version, causal=causal)
    assert trainer.stride == 32 == RAVE.frames_multiple("tiny")
    for frames in (32, 320):
        latent = trainer.encoder(np.zeros((2, 4, frames, 1), np.float32))
        assert latent.shape == (2, frames // 32, 5)
        assert trainer.decoder(latent).shape == (2, 4, frames, 1)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_causal_networks_hear_nothing_later(version):
    trainer = made(version=version, causal=True)
    x = tf.Variable(features(1))
    with tf.GradientTape() as tape:
        early = tf.reduce_sum(trainer.decoder(trainer.encoder(x))[:, :, :128] ** 2)
    gradient = np.abs(tape.gradient(early, x).numpy())[0, :, :, 0].sum(axis=0)
    assert not gradient[128:].any()
    assert gradient[:128].any()


def test_soft_sigmoid_is_the_naive_one():
    x = np.linspace(-8.0, 8.0, 17, dtype=np.float32)
    np.testing.assert_allclose(SoftSigmoid(-5.0)(x), 2.0 / (1.0 + np.exp(5.0 - x)) ** 2.3 + 1e-7, rtol=1e-5)


def test_the_waveform_is_the_representations():
    """One filter bank: what the loss hears is what the representation plays."""
    x = features()
    representation = Subbands(8000, bands=4)
    np.testing.assert_allclose(made().waveform(x), representation.inverse(x), atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_the_first_stages_loss_is_the_naive_one(training):
    trainer = made(beta=0.3, warmup_steps=100)
    trainer.steps.assign(50.0)
    x, y = features(), features(seed=1, rms=0.05)
    random = np.random.default_rng(2)
    mean, log_variance = (random.standard_normal((2, 8, 5)).astype(np.float32) for _ in range(2))
    outputs = {"features": y, "mean": mean, "log_variance": log_variance}
    found = float(trainer.compute_loss(x, y_pred=outputs, training=training))

    sizes = (2048, 1024, 512, 256, 128)
    real, fake = (np.asarray(Subbands(8000, bands=4).inverse(part)) for part in (x, y))
    full = np.mean([naive_distance(a, b, sizes[1:]) for a, b in zip(real, fake)])
    bands = np.mean([naive_distance(a, b, sizes[3:]) for a, b in zip(x[..., 0], y[..., 0])])
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance).sum(axis=-1)
    beta = 0.3 * 1000.0**-0.5 if training else 0.3  # half way from a thousandth, by the same factor each step
    assert found == pytest.approx(full + bands + beta * kl.mean(), rel=1e-4)
    figures = {metric.name: float(metric.result()) for metric in trainer.metrics}
    assert figures["distance"] == pytest.approx(full, rel=1e-4)
    assert figures["reconstruction"] == pytest.approx(full + bands, rel=1e-4)
    assert figures["kl"] == pytest.approx(kl.sum(axis=1).mean(), rel=1e-5)
    assert float(trainer.steps) == 50.0 + training


@pytest.mark.parametrize("adversary", losses.ADVERSARIES)
def test_each_weight_of_the_second_stage_is_applied_once(adversary):
    """By gradient: what a weight adds to the gradient of the output is the weight times its term's."""
    outputs = {"mean": np.zeros((2, 8, 5), np.float32), "log_variance": np.zeros((2, 8, 5), np.float32)}
    x, y = features(), tf.Variable(features(seed=1))

    def gradient(**weights):
        keras.utils.set_random_seed(0)
        trainer = made(adversary=adversary, **weights)
        trainer.enter(2)
        with tf.GradientTape() as tape:
            loss = trainer.compute_loss(x, y_pred={**outputs, "features": y})
        return tape.gradient(loss, y).numpy()

    keras.utils.set_random_seed(0)
    trainer = made()
    with tf.GradientTape(persistent=True) as tape:
        real, fake = (trainer.discriminator(trainer.waveform(part)) for part in (x, y))
        fooling = losses.generator_loss(fake, adversary)
        matching = losses.feature_matching([[tf.stop_gradient(m) for m in maps] for maps in real], fake)
    plain = gradient(adversarial_weight=0.0, feature_weight=0.0)
    for name, term in (("adversarial_weight", fooling), ("feature_weight", matching)):
        weights = {"adversarial_weight": 0.0, "feature_weight": 0.0, name: 7.0}
        expected = 7.0 * tape.gradient(term, y).numpy()
        np.testing.assert_allclose(gradient(**weights) - plain, expected, atol=2e-3 * np.abs(expected).max())


def step(trainer, x, count=2):
    trainer.compile(optimizer=trainer.make_optimizer(1e-3), jit_compile=False)
    return trainer.fit(x, batch_size=len(x), epochs=count, verbose=0).history


def test_the_second_stage_leaves_the_encoder_as_it_was():
    trainer = made(version="v1")  # with batch normalisation
    step(trainer, features(4))
    before = [np.array(weight) for weight in trainer.encoder.weights]
    decoder, judges = (
        [np.array(w) for w in part.trainable_weights] for part in (trainer.decoder, trainer.discriminator)
    )
    assert any("moving_variance" in weight.path and not np.all(weight == 1.0) for weight in trainer.encoder.weights)
    trainer.enter(2)
    # Latents are the encoder's in evaluation: its statistics, not those of the batch.
    (mean,), _ = trainer.posteriors(features(4, seed=3), training=False)
    np.testing.assert_array_equal(trainer(features(4, seed=3), training=True)["mean"], mean)
    history = step(trainer, features(4, seed=3))
    for weight, kept in zip(trainer.encoder.weights, before):
        np.testing.assert_array_equal(weight, kept, err_msg=weight.path)
    for part, kept in ((trainer.decoder, decoder), (trainer.discriminator, judges)):
        assert all(np.any(np.array(weight) != old) for weight, old in zip(part.trainable_weights, kept)), part.name
    assert {"adversarial", "discriminator", "feature_matching", "real_score", "fake_score"} <= set(history)


def test_a_batch_of_silence_does_not_outweigh_the_others_in_the_level():
    trainer, (loud, quiet) = made(), (x[:, 0, :, 0] for x in (features(), features(rms=0.02)))
    for real, fake, expected in ((loud, quiet, 0.2), (0.0 * loud, quiet, 20.0), (0.0 * loud, 0.0 * loud, 1.0)):
        _, figures = trainer.adversarial_loss(np.tile(real, (1, 4)), np.tile(fake, (1, 4)))
        assert float(figures["generator_norm"]) == pytest.approx(expected, rel=0.1)


def test_the_first_stage_hears_no_adversary_and_no_noise():
    trainer = made()
    judges = [np.array(weight) for weight in trainer.discriminator.weights]
    history = step(trainer, features(4))
    assert "adversarial" not in history
    assert "rmse_db" not in history  # samples have no level
    for weight, kept in zip(trainer.discriminator.weights, judges):
        np.testing.assert_array_equal(weight, kept)
    gate = next(layer for layer in trainer.decoder.layers if layer.name == "noise").gate
    assert float(gate) == 0.0
    trainer.enter(2)
    assert float(gate) == 1.0
    assert not any(layer.name == "noise" for layer in made(noise=False).decoder.layers)


def test_two_rates_are_two_optimizers():
    variables = [keras.Variable([1.0, -2.0], name=name) for name in ("decoder", "discriminator")]
    alone = [keras.Variable([1.0, -2.0]) for _ in range(2)]
    both = TwoRates(0.1, part="discriminator", ratio=0.25, beta_1=0.5)
    both.build(variables)
    each = [keras.optimizers.Adam(rate, beta_1=0.5) for rate in (0.1, 0.025)]
    for gradient in ([0.3, -1.0], [0.1, 2.0]):
        gradients = [tf.constant(gradient)] * 2
        both.apply(gradients)
        for optimizer, variable in zip(each, alone):
            optimizer.apply([tf.constant(gradient)], [variable])
    for found, expected in zip(variables, alone):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert TwoRates.from_config(both.get_config()).ratio == 0.25


def test_it_learns():
    """Bursts of noise: their shape in time halves the distance."""
    x = features(8) * np.exp(-np.arange(256) / 40.0).astype(np.float32)[None, None, :, None]
    distance = step(made(beta=1e-3), x, 60)["distance"]
    assert distance[-1] < 0.6 * distance[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "v3"}, "version must be one of v1, v2, received 'v3'"),
        ({"adversary": "wasserstein"}, "adversary must be one of hinge, least_squares"),
        ({"beta": -1.0}, "beta must not be negative, received -1.0"),
        ({"preset": "huge"}, "preset must be one of tiny, small, paper"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, received 0"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        made(**changes)


def test_frames_that_the_ratios_do_not_divide_are_refused():
    with pytest.raises(InputError, match="multiple of 32 frames.*multiple of 128 samples"):
        RAVE((4, 250, 1), preset="tiny")


def test_config_makes_the_same_again():
    trainer = made(version="v2", causal=True, activation="snake", beta=0.2, feature_weight=3.0)
    again = RAVE.from_config(trainer.get_config())
    assert again.get_config() == trainer.get_config()
    assert [w.shape for w in again.weights] == [w.shape for w in trainer.weights]


# A fit of two stages


@pytest.fixture(scope="module")
def recordings():
    from spectrovae.data import Recordings

    return Recordings.open("toy:harmonic?size=40", sample_rate=8000, samples=2048)


def fit(recordings, out, epochs=4, **options):
    settings = {"epochs": epochs, "batch_size": 8, "precision": "float32", "adversarial_from": 2, **options}
    return training.fit(
        "rave", recordings, Subbands(8000), out, training.FitOptions(**settings), preset="tiny", latent_dim=4,
        warmup_epochs=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("rave") / "whole"
    return fit(recordings, out, augment="gain,mute"), out


def test_a_fit_runs_both_stages(whole):
    codec, out = whole
    rows = history(out)
    assert [np.isfinite(float(row["adversarial"])) for row in rows] == [False, False, True, True]
    assert codec.info["epoch"] == 4  # the distance of the first stage does not decide over the second
    assert json.loads((out / "run" / "config.json").read_text())["options"]["augment"] == "mute:0.25,gain:6"
    assert codec.info["augment"] == "mute:0.25,gain:6"
    assert Codec.load(out, verify=True).whole
    verdict = (out / "run" / "verdict.md").read_text()
    assert "of the first stage" in verdict
    assert "dB of the levels of a spectrogram" in verdict
    assert {"validation_distance", "validation_kl"} <= set(codec.info["metrics"])


def check_resume(epoch, whole, recordings, tmp_path, monkeypatch):
    """Killed in that epoch, it continues exactly."""
    expected, out = whole
    with monkeypatch.context() as patch:
        interrupted(patch, epoch)
        with pytest.raises(KeyboardInterrupt):
            fit(recordings, tmp_path / "parts", augment="gain,mute")
    assert len(history(tmp_path / "parts")) == epoch
    found = fit(recordings, tmp_path / "parts", augment="gain,mute")
    assert history(tmp_path / "parts") == history(out)
    for part in ("encoder", "decoder"):
        for a, b in zip(getattr(expected, part).get_weights(), getattr(found, part).get_weights()):
            np.testing.assert_array_equal(a, b)


def test_killed_as_the_second_stage_begins_it_continues_exactly(whole, recordings, tmp_path, monkeypatch):
    """In other epochs: tests/nightly/test_exact_resume.py."""
    check_resume(2, whole, recordings, tmp_path, monkeypatch)


def test_without_a_second_stage(recordings, tmp_path):
    fit(recordings, tmp_path / "run", epochs=1, adversarial_from=1)
    assert "adversarial" not in history(tmp_path / "run")[0]
    with pytest.raises(InputError, match="for families of two stages"):
        training.fit("vae", recordings, Subbands(8000), tmp_path / "vae", training.FitOptions(adversarial_from=1))


def test_corrupted_and_augmented_at_once_is_refused():
    with pytest.raises(InputError, match="cannot be trained together"):
        training.FitOptions(corrupt="uniform:10", augment="gain")


def test_a_prior_of_its_latent_sequence(whole, recordings, tmp_path):
    """The default kind, kept in the bundle and drawn from."""
    bundle = shutil.copytree(whole[1], tmp_path / "bundle")
    fitted = training.fit_prior(bundle, recordings, epochs=2, preset="tiny")
    assert fitted.learned["kind"] == "latent-wavenet"
    figures = fitted.learned["figures"]["validation"]
    assert {"prior", "standard_normal", "gaussian"} <= set(figures)
    again = Codec.load(bundle, verify=True)
    assert again.segment_frames == 512
    drawn = again.generate(2, seed=3, top_p=0.9)
    assert drawn.shape == (2, 2048)
    np.testing.assert_allclose(drawn, fitted.generate(2, seed=3, top_p=0.9), atol=1e-6)
    with pytest.raises(InputError, match="must be one of mixture, flow, latent-wavenet, received 'wavenet'"):
        training.fit_prior(bundle, recordings, "wavenet", force=True)
