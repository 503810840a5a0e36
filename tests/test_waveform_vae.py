"""The VAE of waveform chunks: both heads, its loss against NumPy, what it does not take."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_spectral_losses import naive_distance

from spectrovae import training
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.models import WaveformVAE
from spectrovae.representations import Chunks

LENGTH = 1100  # no multiple of the strides


def made(**options):
    return WaveformVAE((LENGTH, 1, 1), **{"preset": "tiny", "latent_dim": 5, **options})


def chunks(count=3, seed=0, rms=0.1):
    return (rms * np.random.default_rng(seed).standard_normal((count, LENGTH, 1, 1))).astype(np.float32)


@pytest.mark.parametrize(("head", "latent"), [("pool", (5,)), ("sequence", (5, 5))])
def test_both_heads(head, latent):
    trainer = made(head=head)
    z = trainer.encoder(chunks())
    assert z.shape == (3, *latent)
    assert trainer.latent_shape == latent
    assert trainer.decoder(z).shape == (3, LENGTH, 1, 1)
    assert trainer.decoder(z).dtype == tf.float32


def test_a_pooled_latent_hears_no_order_of_its_positions():
    """Averaged over positions: whole strides of silence may come first or last."""
    x = np.zeros((2, 256 * 64, 1, 1), np.float32)
    x[0, 256 * 30 : 256 * 31] = x[1, 256 * 34 : 256 * 35] = chunks(1)[0, :256]
    trainer = WaveformVAE(x.shape[1:], preset="tiny")
    first, last = trainer.encoder(x).numpy()
    np.testing.assert_allclose(first, last, atol=1e-5)


@pytest.mark.parametrize("head", ["pool", "sequence"])
@pytest.mark.parametrize("likelihood", ["sigma", "alpha_mse"])
@pytest.mark.parametrize("learning", [False, True])
def test_the_loss_is_the_naive_one(head, likelihood, learning):
    options = {"alpha": 50.0} if likelihood == "alpha_mse" else {}
    trainer = made(head=head, likelihood=likelihood, beta=0.7, warmup_steps=10, spectral_weight=0.3, **options)
    trainer.steps.assign(4.0)
    x, y = chunks(), chunks(seed=1, rms=0.05)
    random = np.random.default_rng(2)
    mean, log_variance = (random.standard_normal((3, *trainer.latent_shape)).astype(np.float32) for _ in range(2))
    outputs = {"features": y, "mean": mean, "log_variance": log_variance}
    log_sigma = 0.0  # what the layer holds at first
    if likelihood == "sigma":
        log_sigma = float(np.asarray(trainer.decoder.get_layer("sigma").log_sigma).squeeze())
    found = float(trainer.compute_loss(x, y_pred=outputs, training=learning))

    squared = np.mean(np.square(x - y), axis=(1, 2, 3), dtype=np.float64)
    if likelihood == "alpha_mse":
        likelihoods = 50.0 * squared
    else:
        variance = squared.mean() if learning else np.exp(2.0 * log_sigma)  # the batch's best, or the one held
        likelihoods = LENGTH * (0.5 * squared / variance + 0.5 * np.log(2.0 * np.pi * variance))
    distance = np.array([naive_distance(a[:, 0, 0], b[:, 0, 0], (1024, 512, 256, 128)) for a, b in zip(x, y)])
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance).reshape(3, -1).sum(axis=1)
    beta = 0.7 * 0.4 if learning else 0.7
    expected = np.mean(likelihoods + 0.3 * LENGTH * distance + beta * kl)
    assert found == pytest.approx(expected, rel=1e-3)
    figures = {metric.name: float(metric.result()) for metric in trainer.metrics}
    assert figures["distance"] == pytest.approx(distance.mean(), rel=1e-4)
    assert figures["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    assert "rmse_db" not in figures  # samples have no level
    assert float(trainer.steps) == 4.0 + learning


def test_the_spectral_weight_is_applied_once():
    outputs = {"mean": np.zeros((3, 5), np.float32), "log_variance": np.zeros((3, 5), np.float32)}
    x, y = chunks(), tf.Variable(chunks(seed=1))

    def gradient(weight):
        trainer = made(spectral_weight=weight, likelihood="alpha_mse", alpha=1.0)
        with tf.GradientTape() as tape:
            loss = trainer.compute_loss(x, y_pred={**outputs, "features": y})
        return tape.gradient(loss, y).numpy()

    plain, once = gradient(0.0), gradient(1.0)
    np.testing.assert_allclose(gradient(3.0) - plain, 3.0 * (once - plain), atol=1e-3 * np.abs(once).max())


def test_a_normalised_latent_has_mean_0_and_variance_1():
    trainer, x = made(latent_norm=True), chunks(64) * np.linspace(0.1, 2.0, 64).reshape(-1, 1, 1, 1)
    (mean,), _ = trainer.posteriors(x.astype(np.float32), training=True)
    np.testing.assert_allclose(np.mean(mean, axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.var(mean, axis=0), 1.0, atol=0.05)


def test_it_learns():
    """A burst whose place the latent must say."""
    random = np.random.default_rng(0)
    x = np.zeros((32, LENGTH, 1, 1), np.float32)
    for row in x:
        place = random.integers(0, LENGTH - 300)
        row[place : place + 300, 0, 0] = 0.3 * random.standard_normal(300)
    trainer = made(head="sequence")
    trainer.compile(keras.optimizers.Adam(2e-3))
    history = trainer.fit(x, batch_size=16, epochs=15, verbose=0).history
    assert history["distance"][-1] < 0.9 * history["distance"][0]
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((LENGTH, 1, 1), {"head": "flatten"}, "head must be one of pool, sequence, received 'flatten'"),
        ((LENGTH, 1, 1), {"likelihood": "bernoulli"}, "likelihood must be one of sigma, alpha_mse"),
        ((LENGTH, 1, 1), {"spectral_weight": -1.0}, "spectral_weight must not be negative"),
        ((LENGTH, 1, 1), {"latent_dim": 0}, "latent_dim must be at least 1, received 0"),
        ((LENGTH, 2, 1), {}, "one chunk of waveform, received .*--duration"),
        ((3, 1, 1), {}, "at least 128 samples, received 3"),
    ],
)
def test_what_is_refused(shape, options, message):
    with pytest.raises(InputError, match=message):
        WaveformVAE(shape, preset="tiny", **options)


def test_config_makes_the_same_again():
    trainer = made(head="sequence", latent_norm=True, likelihood="alpha_mse", alpha=3.0, spectral_weight=0.5)
    again = WaveformVAE.from_config(trainer.get_config())
    assert again.get_config() == trainer.get_config()
    assert [w.shape for w in again.weights] == [w.shape for w in trainer.weights]


def test_a_fit_makes_a_codec_that_takes_sounds_of_any_length(tmp_path):
    recordings = Recordings.open("toy:harmonic?size=30", sample_rate=8000, samples=LENGTH)
    settings = training.FitOptions(epochs=2, batch_size=8, precision="float32")
    codec = training.fit(
        "waveform-vae", recordings, Chunks(8000, length=LENGTH), tmp_path / "run", settings, preset="tiny"
    )
    assert {"validation_distance", "validation_kl"} <= set(codec.info["metrics"])
    waveform = next(iter(recordings.waveforms("validation")))[:2]
    long = np.concatenate([np.asarray(waveform)] * 3, axis=1)[:, :2900]
    again = Codec.load(tmp_path / "run", verify=True)
    assert again.segment_samples == LENGTH
    latent = again.encode(long)
    assert latent.shape[:2] == (2, 4)  # chunks that share a quarter
    sound = again.decode(latent, 2900)
    np.testing.assert_allclose(sound, again.reconstruct(long), atol=1e-5)
    # Cross-faded: no step at a seam larger than what the sound does elsewhere.
    steps = np.abs(np.diff(sound[0]))
    seams = np.array([825, 1099, 1650, 1924])
    assert steps[seams].max() <= np.quantile(steps, 0.999) + 1e-6
