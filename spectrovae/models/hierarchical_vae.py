"""Hierarchical VAE: a global vector, then maps of latents at finer and finer resolution, each given those above it.

Top-down inference as in LVAE (Sonderby et al., 2016) and VDVAE (Child, 2021), with residual posteriors as in NVAE
(Vahdat and Kautz, 2020). Encoder, decoder and trainer walk down the same layers; they differ in where a group's latent
comes from: the posterior's mean, an input, a sample. The layers are therefore in both saved files. The decoder's output
depends on its latents alone.

A group travels whitened: the prior of z_l given the groups above is N(m, s^2), and the latent is u_l = (z_l - m) / s,
of prior N(0, I). The posterior of u_l is then relative to the prior, KL is the standard formula, u_l = 0 puts a group
at its prior's mean and u_l ~ N(0, I) draws it.
"""

import math
from typing import Any

import keras
from keras import ops

from spectrovae import layers, losses
from spectrovae.errors import InputError
from spectrovae.models import base

# widths and strides of the encoder's stages, from full resolution down; the top-down path mirrors them. latent_dim: of
# the vector on top; maps: (stage, channels) of each group of maps, coarsest first.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "widths": (8, 16, 16), "strides": ((4, 4), (4, 2), (2, 2)), "latent_dim": 8, "maps": ((2, 2), (1, 2)),
    },
    "small": {
        "widths": (32, 64, 128, 256), "strides": ((4, 2), (2, 2), (2, 2), (2, 2)), "latent_dim": 64,
        "maps": ((2, 8), (1, 4)),
    },
    "base": {
        "widths": (64, 128, 256, 512), "strides": ((4, 2), (2, 2), (2, 2), (2, 2)), "latent_dim": 128,
        "maps": ((2, 16), (1, 8)),
    },
}  # fmt: skip


def block_of(strides, stage: int) -> tuple[int, int]:
    """Rows and columns of the input that one position of this stage's output stands for."""
    rows, columns = zip(*strides[: stage + 1], (1, 1))
    return math.prod(rows), math.prod(columns)


class Posteriors:
    """Bottom-up path, and the posterior of each group from its activations and the top-down state.

    Args:
        feature_shape: (bins, frames, channels).
        widths, strides: of the stages.
        latent_dim: of the top group.
        maps: (stage, channels) of the groups below it.
    """

    def __init__(self, feature_shape, widths, strides, latent_dim, maps):
        self.feature_shape, self.strides = feature_shape, strides
        self.stages = [stage for stage, _ in maps]
        self.down = [
            keras.layers.Conv2D(
                width, [max(3, 2 * s - 1) for s in stride], stride, padding="same", activation="relu", name=f"down_{i}"
            )
            for i, (width, stride) in enumerate(zip(widths, strides))
        ]
        # Beside the convolutions linear paths, as in the flat VAE: with them the top learns the principal subspace, and
        # the maps that of patches, in the first epochs; later a KL divergence that has grown would close the map.
        self.linear = keras.layers.Dense(latent_dim, use_bias=False, name="linear_mean")
        self.curved = keras.layers.Dense(latent_dim, name="curved_mean")
        self.log_variance = keras.layers.Dense(latent_dim, name="log_variance")
        self.hidden = [
            keras.layers.Conv2D(widths[stage], 1, activation="relu", name=f"posterior_hidden_{i}")
            for i, (stage, _) in enumerate(maps, 1)
        ]
        self.moments = [
            keras.layers.Conv2D(2 * channels, 3, padding="same", name=f"posterior_moments_{i}")
            for i, (_, channels) in enumerate(maps, 1)
        ]
        self.cells = [
            keras.layers.Conv2D(
                2 * channels, [3 * n for n in block_of(strides, stage)], block_of(strides, stage), padding="same",
                use_bias=False, name=f"linear_moments_{i}",
            )
            for i, (stage, channels) in enumerate(maps, 1)
        ]  # fmt: skip
        self.split = [layers.GaussianParameters(name=f"posterior_{i}") for i in range(1 + len(maps))]

    def __call__(self, features):
        """Features -> a function (group, state) -> (mean, log-variance) of the group's posterior."""
        x = padded = base.pad_to_multiple(features, self.feature_shape, self.strides)
        activations = []
        for layer in self.down:
            x = layer(x)
            activations.append(x)

        def posterior(group, state):
            if group == 0:
                flat = keras.layers.Flatten()(x)
                mean = keras.layers.Add()([self.curved(flat), self.linear(keras.layers.Flatten()(features))])
                moments = keras.layers.Concatenate()([mean, self.log_variance(flat)])
            else:
                seen = keras.layers.Concatenate()([activations[self.stages[group - 1]], state])
                curved = self.moments[group - 1](self.hidden[group - 1](seen))
                moments = keras.layers.Add()([curved, self.cells[group - 1](padded)])
            return self.split[group](moments)

        return posterior


class TopDown:
    """Top-down path: state and prior of each group from the groups above, features from all.

    Args: as of :class:`Posteriors`.
    """

    def __init__(self, feature_shape, widths, strides, latent_dim, maps):
        height, width = base.reduced_shape(feature_shape, strides)
        self.feature_shape, self.strides = feature_shape, strides
        self.group_of = {stage: index for index, (stage, _) in enumerate(maps)}
        self.latent_shapes: list[tuple[int, ...]] = [(latent_dim,)]
        self.project = keras.layers.Dense(height * width * widths[-1], activation="relu", name="project")
        self.unflatten = keras.layers.Reshape((height, width, widths[-1]), name="unflatten")
        self.linear = keras.layers.Dense(math.prod(feature_shape), name="linear")
        self.cells = keras.layers.Reshape(feature_shape, name="cells")
        self.groups = []
        for index, (stage, channels) in enumerate(maps, 1):
            block = block_of(strides, stage)
            later = block_of(strides[stage + 1 :], len(strides))
            self.latent_shapes.append((height * later[0], width * later[1], channels))
            self.groups.append({
                # Zero at the start: every prior is N(0, I), and the state passes as it is.
                "prior": keras.layers.Conv2D(
                    2 * channels, 3, padding="same", kernel_initializer="zeros", name=f"prior_{index}"
                ),
                "residual": keras.layers.Conv2D(
                    widths[stage], 1, kernel_initializer="zeros", name=f"residual_{index}"
                ),
                "colour": layers.FromPrior(name=f"latent_{index}"),
                "embed": keras.layers.Conv2D(widths[stage], 1, name=f"embed_{index}"),
                "merge": keras.layers.Conv2D(widths[stage], 3, padding="same", name=f"merge_{index}"),
                "linear": keras.layers.Conv2D(
                    math.prod(block) * feature_shape[-1], 3, padding="same", name=f"linear_{index}"
                ),
                "shuffle": layers.PixelShuffle(block, name=f"linear_shuffle_{index}"),
            })  # fmt: skip
        outputs = (feature_shape[-1], *widths[:-1])
        self.up = [
            keras.layers.Conv2D(
                outputs[i] * math.prod(stride), 3, padding="same", activation="relu" if i else None, name=f"up_{i}"
            )
            for i, stride in enumerate(strides)
        ]
        self.shuffle = [layers.PixelShuffle(stride, name=f"shuffle_{i}") for i, stride in enumerate(strides)]
        self.sigma = layers.CalibratedSigma(name="sigma")
        self.features = keras.layers.Activation("linear", dtype="float32", name="features")

    def __call__(self, draw):
        """Walk down; ``draw(group, state)`` gives the whitened latent of each group in turn. Returns the features."""
        top = draw(0, None)
        x = self.unflatten(self.project(top))
        linear = []
        for stage in reversed(range(len(self.strides))):
            if stage in self.group_of:
                index = self.group_of[stage]
                part = self.groups[index]
                latent = part["colour"](draw(index + 1, x), part["prior"](x))
                x = keras.layers.Add()([x, part["residual"](x), part["embed"](latent)])
                x = keras.layers.Add()([x, part["merge"](keras.layers.ReLU()(x))])
                linear.append(part["shuffle"](part["linear"](latent)))
            x = self.shuffle[stage](self.up[stage](x))
        x = base.crop_to_shape(keras.layers.Add()([x, *linear]), self.feature_shape)
        return self.features(self.sigma(keras.layers.Add()([x, self.cells(self.linear(top))])))


def build(feature_shape, widths, strides, latent_dim, maps, sampling):
    """The three walks over the same layers: encoder, decoder, and the one that trains.

    Returns:
        ``encoder``: features -> list of the groups' posterior means, each given the means above it.
        ``decoder``: that list -> features (batch, bins, frames, channels).
        ``sampled``: features -> (decoded features, means, log-variances), each group sampled given those above.
    """
    posteriors = Posteriors(feature_shape, widths, strides, latent_dim, maps)
    top_down = TopDown(feature_shape, widths, strides, latent_dim, maps)

    features = keras.Input(feature_shape, name="features")
    posterior = posteriors(features)
    found = []

    def mean_of(group, state):
        found.append(posterior(group, state)[0])
        return found[-1]

    top_down(mean_of)
    encoder = keras.Model(features, found, name="encoder")

    latents = [keras.Input(shape, name=f"latent_group_{i}") for i, shape in enumerate(top_down.latent_shapes)]
    decoder = keras.Model(latents, top_down(lambda group, state: latents[group]), name="decoder")

    features = keras.Input(feature_shape, name="given")
    posterior = posteriors(features)
    means, log_variances = [], []

    def sample(group, state):
        mean, log_variance = posterior(group, state)
        means.append(mean)
        log_variances.append(log_variance)
        return sampling(mean, log_variance)

    decoded = top_down(sample)
    return encoder, decoder, keras.Model(features, (decoded, means, log_variances), name="sampled")


def resample_group(latents, group: int, seed: int = 0) -> list:
    """Latents with one group drawn from its prior given the groups above; the others stay as they are.

    What it does to the decoder's output says what the group is used for: a total KL does not (Zhao, Song and Ermon,
    2017).

    Args:
        latents: what ``encoder`` returns.
        group: 0 is the coarsest.
        seed: of the draw.
    """
    noise = keras.random.normal(ops.shape(latents[group]), seed=seed)
    return [noise if index == group else latent for index, latent in enumerate(latents)]


def balancing_weights(kl, dims):
    """Weight of each group's KL divergence while it warms up: gamma ~ (KL + 0.01) / size, of mean 1, no gradient.

    NVAE (Vahdat and Kautz, 2020), section 3.2: a group that is hardly used for its size is hardly charged.

    Args:
        kl: of each group, nats, averaged over the batch [shape=(groups,)].
        dims: dimensions of each group.
    """
    size = ops.convert_to_tensor([d / min(dims) for d in dims], dtype="float32")
    gamma = ops.stop_gradient((ops.abs(kl) + 0.01) / size)
    return gamma / ops.mean(gamma)


@keras.saving.register_keras_serializable("spectrovae")
class HierarchicalVAE(base.Trainer):
    """Hierarchical VAE trainer: ``encoder`` returns the groups' whitened latents, ``decoder`` takes them.

    Args:
        feature_shape: (bins, frames, channels).
        latent_dim: dimensions of the vector on top; the preset's by default.
        groups: 2 or 3, the vector and one or two groups of maps, coarsest first.
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU).
        beta: weight of the KL divergence (Higgins et al., 2017).
        warmup_steps: training steps over which beta grows from 0 linearly.
        balancing: weigh the groups' KL divergences by :func:`balancing_weights` during the warm-up.
        free_bits: nats per dimension that each group may use, on average over the batch, at no charge in training
            (Kingma et al., 2016).
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin; metrics are reported with it.
        seed: of the latent noise.

    Metrics: ``reconstruction`` (nats per example, calibrated Gaussian of Rybkin et al., 2021), ``kl`` and that of each
    group, ``kl_0``, ``kl_1``, ... (nats per example), ``rmse_db`` (dB, of sampled latents in training and of the
    posterior means in evaluation).
    """

    prior = "standard_normal"
    warmup_epochs = 3.0  # without it the finer groups were half as used on spoken digits

    def __init__(
        self,
        feature_shape,
        latent_dim: int | None = None,
        *,
        groups: int = 3,
        preset: str = "small",
        beta: float = 1.0,
        warmup_steps: int = 0,
        balancing: bool = True,
        free_bits: float = 0.0,
        db_per_unit=None,
        seed: int | None = 0,
        **kwargs,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, db_per_unit=db_per_unit, seed=seed, **kwargs)
        shape = dict(PRESETS[preset])
        latent_dim = int(shape["latent_dim"] if latent_dim is None else latent_dim)
        if latent_dim < 1:
            raise InputError(f"latent_dim must be at least 1, received {latent_dim}")
        if groups not in (2, 3):
            raise InputError(f"groups must be 2 or 3, received {groups}")
        if not free_bits >= 0.0:
            raise InputError(f"free_bits must be at least 0 nats per dimension, received {free_bits}")
        self.latent_dim, self.groups = latent_dim, groups
        self.beta, self.warmup_steps = beta, warmup_steps
        self.balancing, self.free_bits = balancing, free_bits
        shape |= {"latent_dim": latent_dim, "maps": shape["maps"][: groups - 1]}
        self.sampling = layers.Sampling(seed=self.seed, name="sampling")
        self.encoder, self.decoder, self.sampled = build(self.feature_shape, sampling=self.sampling, **shape)
        self.dims = [math.prod(tensor.shape[1:]) for tensor in self.encoder.outputs]
        self.posteriors = base.posteriors_of(self.encoder)
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="steps")
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction")
        self.kl_tracker = keras.metrics.Mean(name="kl")
        self.group_trackers = [keras.metrics.Mean(name=f"kl_{group}") for group in range(groups)]

    def call(self, features, training=False):
        if training:
            decoded, means, log_variances = self.sampled(features, training=True)
        else:
            means, log_variances = self.posteriors(features)
            decoded = self.decoder(means)
        return {"features": decoded, "mean": means, "log_variance": log_variances}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = self.target_of(x, y, sample_weight)
        reconstruction = self.calibrated_nll(target, y_pred["features"], training)
        divergences = []
        for mean, log_variance, tracker in zip(y_pred["mean"], y_pred["log_variance"], self.group_trackers):
            kl = losses.kl_divergence(mean, log_variance)
            divergences.append(ops.sum(kl, axis=tuple(range(1, len(kl.shape)))))
            tracker.update_state(divergences[-1])
        self.reconstruction_tracker.update_state(reconstruction)
        self.kl_tracker.update_state(sum(divergences))
        self.track_error(target, y_pred["features"])
        charged = ops.stack([ops.mean(kl) for kl in divergences])
        if training:
            charged = self.charged_kl(charged)
            loss = ops.mean(reconstruction) + self.current_beta() * ops.sum(charged)
            self.steps.assign_add(1.0)
            return loss
        return ops.mean(reconstruction) + self.beta * ops.sum(charged)

    def charged_kl(self, kl):
        """What training charges for each group's KL [shape=(groups,)]: free bits, and balance during the warm-up."""
        if self.balancing and self.warmup_steps:
            warming = ops.cast(self.steps < self.warmup_steps, "float32")
            kl = kl * (warming * balancing_weights(kl, self.dims) + 1.0 - warming)
        return ops.maximum(kl, self.free_bits * ops.convert_to_tensor(self.dims, dtype="float32"))

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "groups": self.groups,
            "beta": self.beta,
            "warmup_steps": self.warmup_steps,
            "balancing": self.balancing,
            "free_bits": self.free_bits,
        }
