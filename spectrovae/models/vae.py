"""Variational autoencoder with a vector latent (Kingma and Welling, 2014), calibrated (Rybkin et al., 2021).

The widths grow as the resolution falls: the first layer leaves full resolution at once (stride 4 x 2) and the last one
returns to it by pixel shuffle, so that almost all the work is matrix products over many channels and few positions.
Beside the convolutions runs a linear path, which alone would be probabilistic PCA (Tipping and Bishop, 1999; Lucas et
al., 2019): it learns the principal subspace in a few epochs, and the convolutions what is not linear.
"""

import math
from typing import Any

import keras
from keras import ops

from spectrovae import layers, losses
from spectrovae.errors import InputError
from spectrovae.models import base

LIKELIHOODS = ("sigma", "alpha_rmse", "alpha_mse")

# widths and strides of the encoder's stages, from full resolution down; the decoder mirrors them.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 16, 16), "strides": ((4, 4), (4, 2), (2, 2)), "latent_dim": 8},
    "small": {"widths": (32, 64, 128, 256), "strides": ((4, 2), (2, 2), (2, 2), (2, 2)), "latent_dim": 128},
    "base": {"widths": (64, 128, 256, 512), "strides": ((4, 2), (2, 2), (2, 2), (2, 2)), "latent_dim": 256},
}


def build_encoder(feature_shape, widths, strides, latent_dim: int) -> keras.Model:
    """Features (batch, bins, frames, channels) -> posterior mean (batch, latent_dim).

    The layer named ``posterior`` holds both moments: see :func:`spectrovae.models.base.posteriors_of`.
    """
    inputs = keras.Input(feature_shape, name="features")
    x = base.pad_to_multiple(inputs, feature_shape, strides)
    for index, (width, stride) in enumerate(zip(widths, strides)):
        kernel = [max(3, 2 * s - 1) for s in stride]
        x = keras.layers.Conv2D(width, kernel, stride, padding="same", activation="relu", name=f"down_{index}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    linear = keras.layers.Flatten(name="cells")(inputs)
    linear = keras.layers.Dense(latent_dim, use_bias=False, name="linear")(linear)
    mean = keras.layers.Add(name="mean")([keras.layers.Dense(latent_dim, name="curved")(x), linear])
    log_variance = keras.layers.Dense(latent_dim, name="log_variance")(x)
    moments = keras.layers.Concatenate(name="moments")([mean, log_variance])
    mean, _ = layers.GaussianParameters(name="posterior")(moments)
    return keras.Model(inputs, mean, name="encoder")


def build_decoder(feature_shape, widths, strides, latent_dim: int) -> keras.Model:
    """Latent (batch, latent_dim) -> features (batch, bins, frames, channels)."""
    height, width = base.reduced_shape(feature_shape, strides)
    inputs = keras.Input((latent_dim,), name="latent")
    x = keras.layers.Dense(height * width * widths[-1], activation="relu", name="project")(inputs)
    x = keras.layers.Reshape((height, width, widths[-1]), name="unflatten")(x)
    outputs = (feature_shape[-1], *widths[:-1])
    for index in reversed(range(len(widths))):
        cells = math.prod(strides[index])
        activation = "relu" if index else None
        x = keras.layers.Conv2D(outputs[index] * cells, 3, padding="same", activation=activation, name=f"up_{index}")(x)
        x = layers.PixelShuffle(strides[index], name=f"shuffle_{index}")(x)
    x = base.crop_to_shape(x, feature_shape)
    linear = keras.layers.Dense(math.prod(feature_shape), name="linear")(inputs)
    x = keras.layers.Add(name="sum")([x, keras.layers.Reshape(feature_shape, name="cells")(linear)])
    return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32", name="features")(x), name="decoder")


@keras.saving.register_keras_serializable("spectrovae")
class VAE(base.Trainer):
    """VAE trainer: holds ``encoder`` and ``decoder``, each of them usable and saved apart.

    Args:
        feature_shape: (bins, frames, channels).
        latent_dim: dimensions of the latent; the preset's by default.
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU).
        likelihood: ``"sigma"``, the calibrated Gaussian: the batch's optimal variance, nothing to weigh by hand;
            ``"alpha_rmse"`` and ``"alpha_mse"``, the published ``alpha * RMSE + KL`` and ``alpha * MSE + KL``.
        alpha: reconstruction weight of the published losses.
        beta: weight of the KL divergence (Higgins et al., 2017).
        warmup_steps: training steps over which beta grows from 0 linearly; the count is a weight of the trainer, so
            that it resumes where it was.
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin
            (:attr:`Representation.db_per_unit`); metrics are reported with it.
        seed: of the latent noise.

    Metrics: ``reconstruction`` (nats per example under ``"sigma"``, else the weighted error), ``kl`` (nats per
    example), ``rmse_db`` (dB, of a sampled latent in training and of the posterior mean in evaluation).
    """

    prior = "standard_normal"

    def __init__(
        self,
        feature_shape,
        latent_dim: int | None = None,
        *,
        preset: str = "small",
        likelihood: str = "sigma",
        alpha: float = 1e6,
        beta: float = 1.0,
        warmup_steps: int = 0,
        db_per_unit=1.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, db_per_unit=db_per_unit, seed=seed, **kwargs)
        if likelihood not in LIKELIHOODS:
            raise InputError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, received {likelihood!r}")
        shape = PRESETS[preset]
        latent_dim = int(shape["latent_dim"] if latent_dim is None else latent_dim)
        if latent_dim < 1:
            raise InputError(f"latent_dim must be at least 1, received {latent_dim}")
        self.latent_dim, self.likelihood = latent_dim, likelihood
        self.alpha, self.beta, self.warmup_steps = alpha, beta, warmup_steps
        self.encoder = build_encoder(self.feature_shape, shape["widths"], shape["strides"], latent_dim)
        self.decoder = build_decoder(self.feature_shape, shape["widths"], shape["strides"], latent_dim)
        self.posteriors = base.posteriors_of(self.encoder)
        self.sampling = layers.Sampling(seed=seed, name="sampling")
        # Not the optimizer's count: under JAX a loss sees that one as it was when the step was traced.
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="steps")
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction")
        self.kl_tracker = keras.metrics.Mean(name="kl")

    def call(self, features, training=False):
        (mean,), (log_variance,) = self.posteriors(features, training=training)
        latent = self.sampling(mean, log_variance) if training else mean
        return {
            "features": self.decoder(latent, training=training),
            "mean": mean,
            "log_variance": log_variance,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = x if y is None else y
        if self.likelihood == "sigma":
            # A sigma a channel: phase, which nothing predicts, must not set the one of the level.
            squared_error = losses.channel_squared_error(target, y_pred["features"])
            log_sigma = losses.optimal_log_sigma(squared_error)
            cells = self.cells // self.feature_shape[-1]
            reconstruction = ops.sum(losses.gaussian_nll(squared_error, log_sigma, cells), axis=-1)
        elif self.likelihood == "alpha_rmse":
            reconstruction = self.alpha * losses.root_mean_squared_error(target, y_pred["features"])
        else:
            reconstruction = self.alpha * losses.mean_squared_error(target, y_pred["features"])
        kl = ops.sum(losses.kl_divergence(y_pred["mean"], y_pred["log_variance"]), axis=-1)
        self.reconstruction_tracker.update_state(reconstruction)
        self.kl_tracker.update_state(kl)
        self.track_error(target, y_pred["features"])
        loss = ops.mean(reconstruction) + self.current_beta(training) * ops.mean(kl)
        if training:
            self.steps.assign_add(1.0)
        return loss

    def current_beta(self, training: bool = True):
        """The weight of the KL divergence now: warmed up in training, ``beta`` itself in evaluation."""
        if not training or not self.warmup_steps:
            return self.beta
        return self.beta * ops.minimum(self.steps / self.warmup_steps, 1.0)

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "likelihood": self.likelihood,
            "alpha": self.alpha,
            "beta": self.beta,
            "warmup_steps": self.warmup_steps,
        }
