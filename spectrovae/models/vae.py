"""Variational autoencoder with a vector latent (Kingma and Welling, 2014), calibrated (Rybkin et al., 2021).

The encoders and decoders, and the presets, are those of :mod:`spectrovae.models.networks`. The linear path beside the
convolutions alone would be probabilistic PCA (Tipping and Bishop, 1999; Lucas et al., 2019): training starts there, and
the convolutions learn what is not linear.
"""

import math

import keras
import numpy as np
from keras import ops

from spectrovae import layers, losses
from spectrovae.errors import InputError
from spectrovae.models import base, conditioning, networks

LIKELIHOODS = ("sigma", "gaussian", "fixed_sigma", "bernoulli", "alpha_rmse", "alpha_mse")
ADVERSARY = 300.0  # weight of the speaker's adversary, in nats per example as all of the loss
WARP = 0.1  # of what the encoder hears where there are speakers
OUTPUTS = {"sigma": "sigma", "gaussian": "moments", "bernoulli": "probabilities"}


def build_encoder(options: networks.Trainer) -> keras.Model:
    """Features (batch, bins, frames, channels) -> posterior mean (batch, latent_dim).

    The layer named ``posterior`` holds both moments: see :func:`spectrovae.models.base.posteriors_of`.
    """
    inputs = keras.Input(options.feature_shape, name="features")
    x, mean = networks.encode(inputs, options)
    log_variance = keras.layers.Dense(options.latent_dim, name="log_variance")(x)
    moments = keras.layers.Concatenate(name="moments")([mean, log_variance])
    mean, _ = layers.GaussianParameters(name="posterior")(moments)
    return keras.Model(inputs, mean, name="encoder")


@keras.saving.register_keras_serializable("spectrovae")
class VAE(networks.Trainer, conditioning.Speakers):
    """VAE trainer: holds ``encoder`` and ``decoder``, each of them usable and saved apart.

    Args:
        feature_shape: (bins, frames, channels).
        latent_dim: dimensions of the latent; the preset's by default.
        likelihood: ``"sigma"``, the calibrated Gaussian: in training the batch's optimal variance, nothing to weigh by
            hand; in evaluation the running mean of its log that the decoder's layer ``sigma`` holds.
            ``"gaussian"``: a variance for each cell, which the decoder predicts from the latent: its layer
            ``likelihood`` has both moments.
            ``"fixed_sigma"``: ``sigma`` in every cell. A dimension whose share of the data's variance is below
            beta sigma^2 collapses, so one too large for the features' scale collapses all.
            ``"bernoulli"``: binary cross-entropy of features in [0, 1], an improper density: its bound compares with no
            other's.
            ``"alpha_rmse"`` and ``"alpha_mse"``, the published ``alpha * RMSE + KL`` and ``alpha * MSE + KL``.
        sigma: of ``"fixed_sigma"``, in feature units.
        alpha: reconstruction weight of the published losses.
        beta: weight of the KL divergence (Higgins et al., 2017).
        warmup: how beta grows over ``warmup_steps``: ``"linear"`` from 0; ``"cyclical"``, four times over, in the first
            half of each quarter linearly from 0, then held (Fu et al., 2019); ``"log"`` from beta / 1000, by the same
            factor each step.
        warmup_steps: training steps that it takes; the count is a weight of the trainer, so that it resumes where
            it was.
        free_bits: nats of each dimension that are not penalised, in training (Kingma et al., 2016); 0.05 to 0.1 keeps
            dimensions alive.
        linear: the linear path beside the convolutions. ``"principal"``, the default: call :meth:`initialise` with the
            training features before training, as ``spectrovae.training`` does. ``"learned"``, the only one under
            ``"bernoulli"``, whose features are no sum of logits, and the default with speakers, whom principal
            components would keep in the latent.
        speakers: names of those whose voices the decoder takes beside the latent, see
            :class:`spectrovae.models.conditioning.Speakers`; none by default. A small latent leaves them less room.
        speaker_dropout: how often, in training, it is not told who speaks.
        speaker_adversary: weight of the gradient that hides the speaker from the latent; 0 opposes nobody.
        speaker_warp: in training the encoder hears frequencies changed by a random factor of up to exp(+-speaker_warp),
            and what is to be decoded are the true ones; for bins that are equally spaced.
        **options: those of :class:`spectrovae.models.networks.Trainer`.

    Metrics: ``reconstruction`` (nats per example; of the published losses the weighted error), ``kl`` (nats per
    example), ``rmse_db`` (dB, of a sampled latent in training and of the posterior mean in evaluation).
    """

    prior = "standard_normal"

    def __init__(
        self,
        feature_shape,
        latent_dim: int | None = None,
        *,
        likelihood: str = "sigma",
        sigma: float = 0.05,
        alpha: float = 1e6,
        beta: float = 1.0,
        warmup: str = "linear",
        warmup_steps: int = 0,
        free_bits: float = 0.0,
        linear: str | None = None,
        speakers=(),
        speaker_dropout: float = 0.1,
        speaker_adversary: float = ADVERSARY,
        speaker_warp: float = WARP,
        **options,
    ):
        linear = linear or ("learned" if likelihood == "bernoulli" or speakers else "principal")
        super().__init__(feature_shape, latent_dim, linear=linear, **options)
        for name, value, choices in (("likelihood", likelihood, LIKELIHOODS), ("warmup", warmup, base.WARMUPS)):
            if value not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, received {value!r}")
        for name, number, least in (
            ("alpha", alpha, 0), ("beta", beta, 0), ("warmup_steps", warmup_steps, 0), ("free_bits", free_bits, 0)
        ):  # fmt: skip
            if not number >= least:
                raise InputError(f"{name} must not be negative, received {number}")
        if not sigma > 0.0:
            raise InputError(f"sigma must be positive, in feature units, received {sigma}")
        if likelihood == "bernoulli" and self.linear == "principal":
            raise InputError("linear='principal' predicts features, not the logits of bernoulli; use linear='learned'")
        self.likelihood, self.sigma, self.alpha, self.beta = likelihood, sigma, alpha, beta
        self.warmup, self.warmup_steps, self.free_bits = warmup, warmup_steps, free_bits
        self.condition(speakers, speaker_dropout, speaker_adversary, speaker_warp)
        self.encoder = build_encoder(self)
        self.decoder = networks.build_decoder(self, OUTPUTS.get(likelihood, "features"))
        self.posteriors = base.posteriors_of(self.encoder)
        self.predicting = _with_parameters(self.decoder)
        self.oppose((self.latent_dim,))
        self.sampling = layers.Sampling(seed=self.seed, name="sampling")
        # Not the optimizer's count: under JAX a loss sees that one as it was when the step was traced.
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="steps")
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction")
        self.kl_tracker = keras.metrics.Mean(name="kl")

    def call(self, inputs, training=False):
        features, speaker = self.told(inputs, training)
        target = self.augment(features, training)
        (mean,), (log_variance,) = self.posteriors(self.disguised(target, training), training=training)
        latent = self.sampling(mean, log_variance) if training else mean
        decoded = self.predicting(self.spoken(latent, speaker, training), training=training)
        outputs = decoded | {"mean": mean, "log_variance": log_variance} | self.guessed(latent, training)
        return outputs | ({"target": target} if target is not features else {})

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = y_pred.get("target", self.target_of(x, y, sample_weight))
        reconstruction = self.reconstruction_loss(target, y_pred, training)
        kl = losses.kl_divergence(y_pred["mean"], y_pred["log_variance"])
        self.reconstruction_tracker.update_state(reconstruction)
        self.kl_tracker.update_state(ops.sum(kl, axis=-1))
        self.track_error(target, y_pred["features"])
        penalty = losses.free_bits(kl, self.free_bits if training else 0.0)
        loss = ops.mean(reconstruction) + self.current_beta(training) * penalty
        loss = loss + self.adversary_loss(x, y_pred, training)
        if training:
            self.steps.assign_add(1.0)
        return loss

    def reconstruction_loss(self, target, outputs, training: bool):
        """Of each example [shape=(batch,)]: negative log-likelihood in nats, or the published weighted error."""
        prediction = outputs["features"]
        if self.likelihood == "sigma":
            return self.calibrated_nll(target, prediction, training)
        if self.likelihood == "gaussian":
            return losses.gaussian_nll_of_cells(target, prediction, outputs["parameters"])
        if self.likelihood == "fixed_sigma":
            squared_error = losses.mean_squared_error(target, prediction)
            return losses.gaussian_nll(squared_error, math.log(self.sigma), self.cells)
        if self.likelihood == "bernoulli":
            return losses.bernoulli_nll(target, outputs["parameters"])
        if self.likelihood == "alpha_rmse":
            return self.alpha * losses.root_mean_squared_error(target, prediction)
        return self.alpha * losses.mean_squared_error(target, prediction)

    def initialise(self, batches):
        """As in the base; with principal components, the posterior's variances start as theirs too.

        Raises:
            InputError: features outside [0, 1] under the Bernoulli likelihood.
        """
        if self.likelihood == "bernoulli":
            least, most = np.min([(np.min(x), -np.max(x)) for x in batches], axis=0) * (1.0, -1.0)
            if least < 0.0 or most > 1.0:
                raise InputError(
                    f"likelihood bernoulli needs features in [0, 1], received some from {least:.3g} to {most:.3g}; use "
                    "a representation with normalisation 'range', or likelihood sigma"
                )
        found = super().initialise(batches)
        if found is None:
            return None
        # Decoder columns of length sqrt(variance) in noise sigma^2 leave a posterior variance of
        # sigma^2 / (variance + sigma^2) of the whitened coordinate.
        noise = max(found.total_variance - float(found.variances.sum()), 1e-6 * found.total_variance) / self.cells
        log_variance = np.zeros(self.latent_dim, np.float32)
        log_variance[: len(found.variances)] = np.log(noise / (found.variances + noise))
        layer = self.encoder.get_layer("log_variance")
        layer.set_weights([np.zeros(layer.kernel.shape), layers.GaussianParameters.unbounded(log_variance)])
        return found

    def get_config(self):
        return {
            **super().get_config(),
            "likelihood": self.likelihood,
            "sigma": self.sigma,
            "alpha": self.alpha,
            "beta": self.beta,
            "warmup": self.warmup,
            "warmup_steps": self.warmup_steps,
            "free_bits": self.free_bits,
            **self.speaker_config(),
        }


def _with_parameters(decoder: keras.Model) -> keras.Model:
    """Latent -> features, and what else their likelihood needs (``parameters``): log-variances, or logits."""
    names = {layer.name for layer in decoder.layers}
    outputs = {"features": decoder.output}
    if "likelihood" in names:
        outputs["parameters"] = decoder.get_layer("likelihood").output[1]
    elif "logits" in names:
        outputs["parameters"] = decoder.get_layer("logits").output
    return keras.Model(decoder.input, outputs, name="predicting")
