"""Variational autoencoder of a chunk of waveform, by strided convolutions in one dimension.

A squared error alone makes such models answer near silence: phase is hard to predict, and a wave of the wrong phase is
further from the right one than no wave. A distance of magnitude spectrograms beside it makes the level worth more.
"""

import math
from typing import Any

import keras
from keras import ops

from spectrovae import layers, losses
from spectrovae.errors import InputError
from spectrovae.models import base

LIKELIHOODS = ("sigma", "alpha_mse")
HEADS = ("pool", "sequence")
DILATIONS = (1, 3)
SPECTRAL = 0.2
SHORTEST = 128  # samples that a spectral distance needs
QUIET = 0.1  # of the output at the start, relative to what goes into its last convolution

# widths and strides of the encoder's stages, from full resolution down; the decoder mirrors them. Of a latent sequence,
# whose steps are 256 samples apart, each has latent_dim / 8 dimensions.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (16, 32, 32, 64), "strides": (4, 4, 4, 4), "latent_dim": {"pool": 32, "sequence": 8}},
    "small": {"widths": (32, 64, 128, 256), "strides": (4, 4, 4, 4), "latent_dim": {"pool": 128, "sequence": 16}},
    "base": {"widths": (64, 128, 256, 512), "strides": (4, 4, 4, 4), "latent_dim": {"pool": 256, "sequence": 32}},
}


def build_encoder(options: Any) -> keras.Model:
    """Features (batch, length, 1, 1) -> posterior mean, (batch, latent_dim) or (batch, steps, latent_dim).

    The layer named ``posterior`` holds both moments: see :func:`spectrovae.models.base.posteriors_of`.
    """
    length = options.feature_shape[0]
    inputs = keras.Input(options.feature_shape, name="features")
    x = keras.layers.Reshape((length, 1), name="waveform")(inputs)
    missing = options.steps_of_latent * math.prod(options.strides) - length
    x = keras.layers.ZeroPadding1D((0, missing), name="pad")(x) if missing else x
    for index, (width, stride) in enumerate(zip(options.widths, options.strides)):
        x = keras.layers.Conv1D(width, 2 * stride + 1, stride, padding="same", use_bias=False, name=f"down_{index}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{index}")(x)
        x = keras.layers.Activation("leaky_relu", name=f"down_{index}_activation")(x)
        x = _units(x, width, f"down_{index}")
    if options.head == "pool":
        x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    mean = keras.layers.Dense(options.latent_dim, name="mean")(x)
    if options.latent_norm:
        mean = keras.layers.BatchNormalization(
            momentum=0.9, center=False, scale=False, dtype="float32", name="latent_norm"
        )(mean)
    log_variance = keras.layers.Dense(options.latent_dim, name="log_variance")(x)
    moments = keras.layers.Concatenate(name="moments")([mean, log_variance])
    mean, _ = layers.GaussianParameters(name="posterior")(moments)
    return keras.Model(inputs, mean, name="encoder")


def build_decoder(options: Any) -> keras.Model:
    """Latent, (batch, latent_dim) or (batch, steps, latent_dim) -> features (batch, length, 1, 1).

    The waveform is multiplied by an amplitude of four samples each, so that it can be silent. Its layer ``sigma`` holds
    the likelihood's.
    """
    steps, widths, strides = options.steps_of_latent, options.widths, options.strides
    inputs = keras.Input(options.latent_shape, name="latent")
    if options.head == "pool":
        x = keras.layers.Dense(steps * widths[-1], name="project")(inputs)
        x = keras.layers.Reshape((steps, widths[-1]), name="unflatten")(x)
    else:
        x = keras.layers.Conv1D(widths[-1], 3, padding="same", name="project")(inputs)
    x = keras.layers.Activation("leaky_relu", name="project_activation")(x)
    for index in reversed(range(1, len(widths))):
        x = _units(x, widths[index], f"up_{index}")
        x = keras.layers.Conv1D(widths[index - 1] * strides[index], 3, padding="same", name=f"up_{index}")(x)
        steps *= strides[index]
        x = keras.layers.Reshape((steps, widths[index - 1]), name=f"shuffle_{index}")(x)
        x = keras.layers.Activation("leaky_relu", name=f"up_{index}_activation")(x)
    x = _units(x, widths[0], "up_0")
    # In half precision the samples themselves would be heard as noise. It starts softly: far louder than its target, it
    # would learn silence first, and stay there.
    soft = keras.initializers.VarianceScaling(QUIET**2, "fan_in")
    y = keras.layers.Conv1D(
        strides[0], 7, padding="same", kernel_initializer=soft, dtype="float32", name="up_0"
    )(x)  # fmt: skip
    amplitude = keras.layers.Conv1D(1, 7, padding="same", dtype="float32", name="amplitude")(x)
    amplitude = keras.layers.Activation("sigmoid", dtype="float32", name="amplitude_sigmoid")(amplitude)
    y = keras.layers.Multiply(dtype="float32", name="waveform_times_amplitude")([y, amplitude])
    y = keras.layers.Reshape((steps * strides[0], 1), name="shuffle_0")(y)
    excess = steps * strides[0] - options.feature_shape[0]
    y = keras.layers.Cropping1D((0, excess), name="crop")(y) if excess else y
    y = keras.layers.Reshape(options.feature_shape, name="chunk")(y)
    y = layers.CalibratedSigma(name="sigma")(y) if options.likelihood == "sigma" else y
    y = keras.layers.Activation("linear", dtype="float32", name="features")(y)
    return keras.Model(inputs, y, name="decoder")


def _units(x, width: int, name: str):
    """Residual units: what is added sees further to both sides, the more so the larger the dilation."""
    for dilation in DILATIONS:
        y = keras.layers.Activation("leaky_relu", name=f"{name}_unit_{dilation}_activation")(x)
        y = keras.layers.Conv1D(width, 3, padding="same", dilation_rate=dilation, name=f"{name}_unit_{dilation}")(y)
        x = keras.layers.Add(name=f"{name}_unit_{dilation}_sum")([x, y])
    return x


@keras.saving.register_keras_serializable("spectrovae")
class WaveformVAE(base.Trainer):
    """Trainer of a VAE of waveform chunks: holds ``encoder`` and ``decoder``, each of them usable and saved apart.

    The loss is the likelihood's, ``spectral_weight`` nats per sample and unit of spectral distance, and beta KL, all of
    an example.

    Args:
        feature_shape: (length, 1, 1) of ``representations.Chunks``, one chunk of any length.
        latent_dim: dimensions of the latent, or of each of its steps; the preset's by default.
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU).
        head: ``"pool"``: one vector, from the average over all positions. ``"sequence"``: a vector every 256 samples.
        latent_norm: batch normalisation of the latent's mean, to mean 0 and variance 1 in each dimension, so that none
            can have less than half a nat on average (Zhu et al., 2020, with a scale of 1).
        likelihood: ``"sigma"``, the calibrated Gaussian, as in :class:`spectrovae.models.vae.VAE`, or ``"alpha_mse"``,
            ``alpha`` times the mean squared error.
        alpha: of ``"alpha_mse"``.
        spectral_weight: nats per sample of a unit of :func:`spectrovae.losses.spectral_distance`, which is the sum of
            five resolutions; at 0.2, a mean error of 1 (8.7 dB) in the log magnitudes of all of them costs a nat a
            sample, as does a squared error that is e^2 times as large under the calibrated likelihood. 0 leaves it out.
        beta: weight of the KL divergence.
        warmup_steps: training steps over which beta grows linearly from 0; the count is a weight of the trainer.
        **options: ``db_per_unit`` and ``seed``, of :class:`spectrovae.models.base.Trainer`.

    Metrics: ``reconstruction`` (nats per example; of ``"alpha_mse"`` the weighted error), ``distance`` (spectral, no
    unit), ``kl`` (nats per example).

    Raises:
        InputError: an argument out of range, or more than one chunk in an example.
    """

    prior = "standard_normal"
    representation_name = "chunks"

    def __init__(
        self,
        feature_shape,
        latent_dim: int | None = None,
        *,
        preset: str = "small",
        head: str = "pool",
        latent_norm: bool = False,
        likelihood: str = "sigma",
        alpha: float = 1e6,
        spectral_weight: float = SPECTRAL,
        beta: float = 1.0,
        warmup_steps: int = 0,
        **options,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, **options)
        for name, value, choices in (("head", head, HEADS), ("likelihood", likelihood, LIKELIHOODS)):
            if value not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, received {value!r}")
        for name, number in (
            ("alpha", alpha), ("spectral_weight", spectral_weight), ("beta", beta), ("warmup_steps", warmup_steps)
        ):  # fmt: skip
            if not number >= 0:
                raise InputError(f"{name} must not be negative, received {number}")
        length, chunks, channels = self.feature_shape
        if (chunks, channels) != (1, 1):
            raise InputError(
                f"features must be (length, 1, 1), one chunk of waveform, received {self.feature_shape}; leave out "
                "--length, and give the duration of an example (--duration)"
            )
        if length < SHORTEST:
            raise InputError(f"a chunk must have at least {SHORTEST} samples, received {length}")
        self.latent_dim = int(PRESETS[preset]["latent_dim"].get(head) if latent_dim is None else latent_dim)
        if self.latent_dim < 1:
            raise InputError(f"latent_dim must be at least 1, received {self.latent_dim}")
        self.head, self.latent_norm, self.likelihood, self.alpha = head, bool(latent_norm), likelihood, alpha
        self.spectral_weight, self.beta, self.warmup_steps = spectral_weight, beta, warmup_steps
        self.encoder = build_encoder(self)
        self.decoder = build_decoder(self)
        self.posteriors = base.posteriors_of(self.encoder)
        self.sampling = layers.Sampling(seed=self.seed, name="sampling")
        # Not the optimizer's count: under JAX a loss sees that one as it was when the step was traced.
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="steps")
        self.trackers = [keras.metrics.Mean(name=name) for name in ("reconstruction", "distance", "kl")]

    @property
    def widths(self) -> tuple[int, ...]:
        return PRESETS[self.preset]["widths"]

    @property
    def strides(self) -> tuple[int, ...]:
        return PRESETS[self.preset]["strides"]

    @property
    def steps_of_latent(self) -> int:
        """Positions at the lowest resolution."""
        return math.ceil(self.feature_shape[0] / math.prod(self.strides))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.latent_dim,) if self.head == "pool" else (self.steps_of_latent, self.latent_dim)

    def call(self, inputs, training=False):
        (mean,), (log_variance,) = self.posteriors(inputs, training=training)
        latent = self.sampling(mean, log_variance) if training else mean
        return {"features": self.decoder(latent, training=training), "mean": mean, "log_variance": log_variance}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target, prediction = self.target_of(x, y, sample_weight), y_pred["features"]
        reconstruction = self.reconstruction_loss(target, prediction, training)
        distance = losses.spectral_distance(target[:, :, 0, 0], prediction[:, :, 0, 0])
        kl = losses.kl_divergence(y_pred["mean"], y_pred["log_variance"])
        kl = ops.sum(kl, axis=tuple(range(1, len(kl.shape))))
        for tracker, value in zip(self.trackers, (reconstruction, distance, kl)):
            tracker.update_state(value)
        loss = reconstruction + self.spectral_weight * self.cells * distance + self.current_beta(training) * kl
        if training:
            self.steps.assign_add(1.0)
        return ops.mean(loss)

    def reconstruction_loss(self, target, prediction, training: bool):
        """Of each example [shape=(batch,)]: negative log-likelihood in nats, or the weighted error."""
        if self.likelihood == "sigma":
            return self.calibrated_nll(target, prediction, training)
        return self.alpha * losses.mean_squared_error(target, prediction)

    def get_config(self):
        names = (
            "latent_dim", "head", "latent_norm", "likelihood", "alpha", "spectral_weight", "beta", "warmup_steps",
        )  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
