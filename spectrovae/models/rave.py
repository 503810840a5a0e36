"""RAVE: a real-time variational autoencoder of the waveform, in sub-bands (Caillon and Esling, 2021, arXiv 2111.05011).

Encoder and decoder are convolutions over time and take any number of frames that is a multiple of the ratios' product;
made causal, they stream (``spectrovae.streaming``).
"""

import math
from typing import Any

import keras
from keras import ops

from spectrovae import layers, losses
from spectrovae.dsp import pqmf
from spectrovae.errors import InputError
from spectrovae.models import base, discriminators
from spectrovae.streaming_layers import Convolution, FilteredNoise, Upsampling

VERSIONS = ("v1", "v2")
ACTIVATIONS = ("leaky_relu", "snake")
DILATIONS = {"v1": (1, 3, 5), "v2": (1, 3, 9)}
NOISE_BANDS = 5
NOISE_RATIO = 4

# Widths double with each ratio. ``paper`` has the paper's sizes, those of "v2" being 96 wide in its authors' code.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "capacity": 16, "ratios": (4, 4, 2), "latent_dim": 16,
        "discriminators": {"capacity": 4, "scales": 2, "periods": ()},
    },
    "small": {
        "capacity": 24, "ratios": (4, 4, 4, 2), "latent_dim": 64,
        "discriminators": {"capacity": 8, "periods": (2, 3, 5)},
    },
    "paper": {
        "capacity": 64, "ratios": (4, 4, 4, 2), "latent_dim": 128,
        "discriminators": {"capacity": 64, "periods": ()},
    },
}  # fmt: skip


def build_encoder(options: Any) -> keras.Model:
    """Features (batch, bands, frames, 1) -> posterior means (batch, frames / prod(ratios), latent_dim).

    The layer named ``posterior`` holds both moments: see :func:`spectrovae.models.base.posteriors_of`.
    """
    bands, width = options.feature_shape[0], options.capacity
    inputs = keras.Input((bands, None, 1), name="features")
    x = keras.layers.Permute((2, 1, 3), name="time_first")(inputs)
    x = keras.layers.Reshape((-1, bands), name="bands")(x)
    x = Convolution(width, 7, causal=options.causal, name="in")(x)
    for index, ratio in enumerate(options.ratios):
        if options.version == "v1":
            # Fast enough for short runs: with Keras's own 0.99 what validation hears lags behind.
            x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm_{index}")(x)
        else:
            for dilation in _dilations(options, index):
                x = _dilated_unit(x, width, dilation, options, f"down_{index}_unit_{dilation}")
        x = _activation(options, f"down_{index}_activation")(x)
        width, taps = 2 * width, 2 * ratio + (options.version == "v1")
        x = Convolution(width, taps, ratio, causal=options.causal, name=f"down_{index}")(x)
    x = _activation(options, "out_activation")(x)
    taps, groups = (5, 2) if options.version == "v1" else (3, 1)
    x = Convolution(2 * options.latent_dim, taps, groups=groups, causal=options.causal, name="out")(x)
    mean, _ = layers.GaussianParameters(name="posterior")(x)
    return keras.Model(inputs, mean, name="encoder")


def build_decoder(options: Any) -> keras.Model:
    """Latents (batch, steps, latent_dim) -> features (batch, bands, steps * prod(ratios), 1).

    The first version: tanh(waveform) * loudness + noise. The second: tanh(waveform * sigmoid(amplitude)) + noise.
    """
    bands, width = options.feature_shape[0], options.capacity * 2 ** len(options.ratios)
    inputs = keras.Input((None, options.latent_dim), name="latent")
    x = Convolution(width, 7 if options.version == "v1" else 3, causal=options.causal, name="in")(inputs)
    # The first version's code goes up by the ratios in the order of its encoder's; the second mirrors them.
    ratios = list(enumerate(options.ratios)) if options.version == "v1" else list(enumerate(options.ratios))[::-1]
    for place, (index, ratio) in enumerate(ratios):
        width //= 2
        x = _activation(options, f"up_{place}_activation")(x)
        x = Upsampling(width, ratio, causal=options.causal, name=f"up_{place}")(x)
        if options.version == "v1":
            for dilation in DILATIONS["v1"]:
                x = _residual_stack(x, width, dilation, options, f"up_{place}_unit_{dilation}")
        else:
            for dilation in _dilations(options, index):
                x = _dilated_unit(x, width, dilation, options, f"up_{place}_unit_{dilation}")
    if options.version == "v1":
        wave = Convolution(bands, 7, causal=options.causal, name="waveform")(x)
        wave = keras.layers.Activation("tanh", dtype="float32", name="waveform_tanh")(wave)
        loudness = layers.SoftSigmoid(name="loudness_sigmoid")(
            Convolution(1, 3, causal=options.causal, name="loudness")(x)
        )
        y = keras.layers.Multiply(dtype="float32", name="waveform_times_loudness")([wave, loudness])
    else:
        x = _activation(options, "head_activation")(x)
        wave = Convolution(bands, 7, causal=options.causal, name="waveform")(x)
        amplitude = Convolution(bands, 7, causal=options.causal, name="amplitude")(x)
        amplitude = keras.layers.Activation("sigmoid", dtype="float32", name="amplitude_sigmoid")(amplitude)
        y = keras.layers.Multiply(dtype="float32", name="waveform_times_amplitude")([wave, amplitude])
        y = keras.layers.Activation("tanh", dtype="float32", name="tanh")(y)
    if options.noise:
        y = keras.layers.Add(dtype="float32", name="with_noise")([y, _noise(x, options)])
    y = keras.layers.Reshape((-1, bands, 1), name="channel")(y)
    y = keras.layers.Permute((2, 1, 3), name="bands_first")(y)
    return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32", name="features")(y), name="decoder")


def _noise(x, options: Any):
    """Feature maps at the sub-bands' rate -> noise in each of them, its filters changing every few frames."""
    size, depth = 1, 0
    while depth < 3 and math.prod(options.ratios) % (size * NOISE_RATIO) == 0:
        size, depth = size * NOISE_RATIO, depth + 1
    channels = options.feature_shape[0]
    for index in range(depth):
        last = index == depth - 1
        filters = channels * NOISE_BANDS if last else options.capacity
        x = Convolution(filters, NOISE_RATIO + 1, NOISE_RATIO, causal=options.causal, name=f"noise_{index}")(x)
        x = x if last else _activation(options, f"noise_{index}_activation")(x)
    amplitudes = layers.SoftSigmoid(-5.0, name="noise_amplitudes")(x)
    return FilteredNoise(channels, NOISE_BANDS, size, options.seed, name="noise")(amplitudes)


def _residual_stack(x, width: int, dilation: int, options: Any, name: str):
    y = x
    for part, spread in (("a", dilation), ("b", 1)):
        y = _activation(options, f"{name}{part}_activation")(y)
        y = Convolution(width, 3, dilation=spread, causal=options.causal, name=f"{name}{part}")(y)
    return keras.layers.Add(name=f"{name}_sum")([x, y])


def _dilated_unit(x, width: int, dilation: int, options: Any, name: str):
    y = _activation(options, f"{name}a_activation")(x)
    y = Convolution(width, 3, dilation=dilation, causal=options.causal, name=f"{name}a")(y)
    y = _activation(options, f"{name}b_activation")(y)
    y = Convolution(width, 1, causal=options.causal, name=f"{name}b")(y)
    return keras.layers.Add(name=f"{name}_sum")([x, y])


def _dilations(options: Any, index: int) -> tuple[int, ...]:
    """Of the units at a resolution of the second version: one fewer at the lowest."""
    return DILATIONS["v2"][: 2 if index == len(options.ratios) - 1 else 3]


def _activation(options: Any, name: str):
    if options.version == "v2" and options.activation == "snake":
        return layers.Snake(name=name)
    return keras.layers.LeakyReLU(negative_slope=0.2, name=name)


ADVERSARIAL = ("adversarial", "discriminator", "feature_matching", "real_score", "fake_score", "generator_norm")
TRACKED = ("distance", "reconstruction", "kl", *ADVERSARIAL)


@keras.saving.register_keras_serializable("spectrovae")
class RAVE(base.Trainer):
    """RAVE (Caillon and Esling, 2021): a variational autoencoder of sub-bands, then an adversary for its decoder.

    Stage 1 learns encoder and decoder by spectral distance and the KL divergence. In stage 2 (:meth:`enter`) the
    encoder is frozen, its batch normalisation in inference mode and its latent detached, and discriminators of the
    waveform join. Both players move in every step: the generator sees the discriminators' weights as constants, and
    they its sound.

    Args:
        feature_shape: (bands, frames, 1) of ``representations.Subbands``; frames a multiple of the ratios' product.
        latent_dim: dimensions of a latent frame; the preset's by default.
        version: ``"v1"``, the paper, or ``"v2"``: dilated residual units, a modulated amplitude.
        causal: convolutions that see no later sample, for streaming.
        noise: a branch of filtered noise, heard from stage 2 on.
        activation: of ``"v2"``, ``"leaky_relu"`` or ``"snake"``.
        beta: weight of the KL divergence, in nats of a latent frame. The paper's divergence lacks the factor of a half,
            so that its 0.1 is 0.2 here; the default, also of ``preset="paper"``, is half the paper's weight.
        warmup_steps: training steps over which beta grows from beta / 1000, by the same factor each step.
        attenuation: of the filter bank, in dB, as the representation has it.
        adversary: ``"hinge"`` or ``"least_squares"``.
        adversarial_weight, feature_weight: of the adversarial loss and of feature matching beside the distance.
        discriminator_rate: the discriminators' learning rate, relative to the decoder's.

    Metrics: ``distance`` (spectral distance of the waveform, no unit), ``reconstruction`` (the same and that of the
    sub-bands), ``kl`` (nats per example); in stage 2 also ``adversarial``, ``discriminator``,
    ``feature_matching``, ``real_score``, ``fake_score`` (mean logits) and ``generator_norm`` (RMS of the output
    relative to the input's).

    Raises:
        InputError: an argument out of range, or frames that the ratios do not divide.
    """

    prior = "standard_normal"
    representation_name = "subbands"
    stages = 2
    warmup = "log"
    warmup_epochs = 5.0  # at full weight at once the divergence is faster than the distance, and all collapses

    def __init__(
        self,
        feature_shape,
        latent_dim: int | None = None,
        *,
        preset: str = "small",
        version: str = "v1",
        causal: bool = False,
        noise: bool = True,
        activation: str = "leaky_relu",
        beta: float = 0.1,
        warmup_steps: int = 0,
        attenuation: float = 100.0,
        adversary: str = "hinge",
        adversarial_weight: float = 1.0,
        feature_weight: float = 10.0,
        discriminator_rate: float = 0.1,
        **options,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, **options)
        for name, value, choices in (
            ("version", version, VERSIONS), ("activation", activation, ACTIVATIONS),
            ("adversary", adversary, losses.ADVERSARIES),
        ):  # fmt: skip
            if value not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, received {value!r}")
        for name, number in (
            ("beta", beta), ("warmup_steps", warmup_steps), ("adversarial_weight", adversarial_weight),
            ("feature_weight", feature_weight), ("discriminator_rate", discriminator_rate),
        ):  # fmt: skip
            if not number >= 0:
                raise InputError(f"{name} must not be negative, received {number}")
        sizes = PRESETS[preset]
        # The second version's authors took widths half as large again.
        self.capacity = sizes["capacity"] * (3 if version == "v2" else 2) // 2
        self.ratios = sizes["ratios"]
        self.latent_dim = sizes["latent_dim"] if latent_dim is None else latent_dim
        if self.latent_dim < 1:
            raise InputError(f"latent_dim must be at least 1, received {self.latent_dim}")
        self.stride = math.prod(self.ratios)
        bands, frames, channels = self.feature_shape
        if frames % self.stride or channels != 1:
            raise InputError(
                f"features must be (bands, frames, 1) with a multiple of {self.stride} frames, received "
                f"{self.feature_shape}; give examples of a multiple of {self.stride * bands} samples"
            )
        self.version, self.causal, self.noise, self.activation = version, causal, noise, activation
        self.beta, self.warmup_steps, self.attenuation = beta, warmup_steps, attenuation
        self.adversary, self.adversarial_weight, self.feature_weight = adversary, adversarial_weight, feature_weight
        self.discriminator_rate = discriminator_rate
        self.filters = None if bands == 1 else pqmf.pqmf_filters(bands, attenuation)
        self.encoder = build_encoder(self)
        self.decoder = build_decoder(self)
        self.posteriors = base.posteriors_of(self.encoder)
        self.sampling = layers.Sampling(seed=self.seed, name="sampling")
        self.discriminator = discriminators.Discriminators(**sizes["discriminators"], name="discriminator")
        self.discriminator.build((None, bands * frames))
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="steps")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in TRACKED}
        self.enter(1)

    @classmethod
    def frames_multiple(cls, preset):
        return math.prod(PRESETS[preset]["ratios"]) if preset in PRESETS else 1

    def enter(self, stage):
        """Begin stage 1 or 2; in the second only the decoder and the discriminators are trained."""
        super().enter(stage)
        self.encoder.trainable, self.discriminator.trainable = stage == 1, stage == 2
        for layer in self.decoder.layers:
            if layer.name == "noise":
                layer.gate.assign(float(stage == 2))

    @property
    def metrics(self):
        """Those of the stage."""
        later = [self.trackers[name] for name in ADVERSARIAL] if self.stage == 1 else []
        return [metric for metric in super().metrics if not any(metric is other for other in later)]

    def make_optimizer(self, learning_rate):
        """Adam of the paper's momenta; the discriminators' variables at their own rate."""
        return TwoRates(
            learning_rate, part=self.discriminator.name, ratio=self.discriminator_rate, beta_1=0.5, beta_2=0.9
        )

    def call(self, inputs, training=False):
        learning = training and self.stage == 1
        (mean,), (log_variance,) = self.posteriors(inputs, training=learning)
        latent = self.sampling(mean, log_variance) if training else mean
        if self.stage == 2:
            latent = ops.stop_gradient(latent)
        return {"features": self.decoder(latent, training=training), "mean": mean, "log_variance": log_variance}

    def waveform(self, features):
        """Features (batch, bands, frames, 1) -> (batch, samples), in float32 and in units of the features."""
        bands = ops.transpose(ops.cast(features[..., 0], "float32"), (0, 2, 1))
        return bands[..., 0] if self.filters is None else pqmf.synthesis(bands, self.filters, tails=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target, features = self.target_of(x, y, sample_weight), y_pred["features"]
        real, fake = self.waveform(target), self.waveform(features)
        distance = losses.spectral_distance(real, fake)
        reconstruction = distance
        if self.filters is not None:
            reconstruction = distance + losses.spectral_distance(target[..., 0], features[..., 0])
        kl = ops.sum(losses.kl_divergence(y_pred["mean"], y_pred["log_variance"]), axis=-1)
        loss = ops.mean(reconstruction)
        figures = {"distance": distance, "reconstruction": reconstruction, "kl": ops.sum(kl, axis=-1)}
        if self.stage == 1:
            loss = loss + self.current_beta(training) * ops.mean(kl)
        else:
            adversarial, found = self.adversarial_loss(real, fake)
            loss, figures = loss + adversarial, figures | found
        for name, value in figures.items():
            self.trackers[name].update_state(value)
        if training:
            self.steps.assign_add(1.0)
        return loss

    def adversarial_loss(self, real, fake):
        """(the loss of both players, the figures of ``ADVERSARIAL``) for waveforms (batch, samples)."""
        seen, judged = discriminators.players(self.discriminator, real, fake)
        matching, fooling = losses.feature_matching(*seen), losses.generator_loss(seen[1], self.adversary)
        judging = losses.discriminator_loss(*judged, self.adversary)
        # 60 dB below full scale, which silence counts as: a batch of it would outweigh all others in the mean.
        level_real, level_fake = (ops.sqrt(ops.mean(ops.square(x)) + 1e-6) for x in (real, fake))
        figures = {
            "adversarial": fooling,
            "discriminator": judging,
            "feature_matching": matching,
            "real_score": losses.mean_score(judged[0]),
            "fake_score": losses.mean_score(judged[1]),
            "generator_norm": level_fake / level_real,
        }
        return self.adversarial_weight * fooling + self.feature_weight * matching + judging, figures

    def get_config(self):
        names = (
            "latent_dim", "version", "causal", "noise", "activation", "beta", "warmup_steps", "attenuation",
            "adversary", "adversarial_weight", "feature_weight", "discriminator_rate",
        )  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("spectrovae")
class TwoRates(keras.optimizers.Adam):
    """Adam with a rate of its own for some variables; its steps are those of two optimisers, in one state.

    Args:
        learning_rate: of all other variables.
        part: beginning of the paths of those variables.
        ratio: their rate, relative to ``learning_rate``.
    """

    def __init__(self, learning_rate=0.001, *, part: str = "discriminator", ratio: float = 1.0, **options):
        super().__init__(learning_rate, **options)
        self.part, self.ratio = part, ratio

    def build(self, variables):
        super().build(variables)
        self.ratios = [self.ratio if variable.path.startswith(self.part) else 1.0 for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        ratio = self.ratios[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * ratio)

    def get_config(self):
        return {**super().get_config(), "part": self.part, "ratio": self.ratio}
