"""Encoders and decoders of one vector latent, which the autoencoder and the VAE share, and what their trainers share.

Three architectures:

- ``"convolutional"``: the widths grow as the resolution falls; the first layer leaves full resolution at once (stride
  4 x 2) and the last one returns to it by pixel shuffle, so that almost all the work is matrix products over many
  channels and few positions. Beside it runs a linear path straight between cells and latent.
- ``"dense"``: one hidden layer on each side, for spectra of one frame above all.
- ``"linear"``: the linear path alone. Trained, it spans the subspace of PCA (Baldi and Hornik, 1989).
"""

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from spectrovae import layers
from spectrovae.errors import InputError
from spectrovae.models import base, conditioning
from spectrovae.pca import PrincipalComponents, principal_components

NETWORKS = ("convolutional", "dense", "linear")
HEADS = ("flatten", "pool")
PATHS = ("learned", "principal")

# widths and strides of the encoder's stages, from full resolution down; the decoder mirrors them.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 16, 16), "strides": ((4, 4), (4, 2), (2, 2)), "latent_dim": 8},
    "small": {"widths": (32, 64, 128, 256), "strides": ((4, 2), (2, 2), (2, 2), (2, 2)), "latent_dim": 128},
    "base": {"widths": (64, 128, 256, 512), "strides": ((4, 2), (2, 2), (2, 2), (2, 2)), "latent_dim": 256},
}


class Trainer(base.Trainer):
    """What the trainers of a vector latent share.

    Args:
        feature_shape: (bins, frames, channels).
        latent_dim: dimensions of the latent; the preset's by default.
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU): widths of the convolutions.
        network: ``"convolutional"``, ``"dense"`` or ``"linear"``.
        hidden: units of the dense network's hidden layer; 400 by default, as in the
            ATIAM report (2017).
        head: how the convolutional encoder leaves its map of positions: ``"flatten"`` keeps where things are,
            ``"pool"`` averages over positions.
        linear: the linear path beside the convolutions. ``"learned"``: trained with them. ``"principal"``: the whitened
            principal components of the training data, put there by :meth:`initialise` and kept, so that training
            starts at PCA's error and the convolutions learn only what is not linear; until then the path is silent.
        latent_norm: batch normalisation of the latent, to mean 0 and variance 1 in each dimension.
        time_stretch: in training, durations change by a random factor of up to exp(+-time_stretch).
        time_shift: in training, sounds move by up to so many frames.
        bin_stretch: in training, frequencies change by a random factor of up to exp(+-bin_stretch). All three
            interpolate between cells, for representations whose cells are levels (and whose bins, for this one, are
            equally spaced).
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin
            (:attr:`Representation.db_per_unit`); metrics are reported with it.
        seed: of all noise.
    """

    def __init__(
        self,
        feature_shape,
        latent_dim: int | None = None,
        *,
        preset: str = "small",
        network: str = "convolutional",
        hidden: int = 400,
        head: str = "flatten",
        linear: str = "learned",
        latent_norm: bool = False,
        time_stretch: float = 0.0,
        time_shift: float = 0.0,
        bin_stretch: float = 0.0,
        db_per_unit=None,
        seed: int | None = 0,
        **kwargs,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, db_per_unit=db_per_unit, seed=seed, **kwargs)
        for name, value, choices in (("network", network, NETWORKS), ("head", head, HEADS), ("linear", linear, PATHS)):
            if value not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, received {value!r}")
        self.latent_dim = int(PRESETS[preset]["latent_dim"] if latent_dim is None else latent_dim)
        for name, size in (("latent_dim", self.latent_dim), ("hidden", hidden)):
            if size < 1:
                raise InputError(f"{name} must be at least 1, received {size}")
        for name, amount, most in (
            ("time_stretch", time_stretch, 1.0), ("bin_stretch", bin_stretch, 1.0),
            ("time_shift", time_shift, self.feature_shape[1]),
        ):  # fmt: skip
            if not 0.0 <= amount <= most:
                raise InputError(f"{name} must lie between 0 and {most}, received {amount}")
        self.network, self.hidden, self.head, self.linear = network, int(hidden), head, linear
        self.latent_norm = bool(latent_norm)
        self.time_stretch, self.time_shift, self.bin_stretch = time_stretch, time_shift, bin_stretch
        self.autocast = False  # targets stay in float32; encoder and decoder cast what they take
        self.warp = None
        if time_stretch or time_shift or bin_stretch:
            self.warp = layers.RandomWarp(time_stretch, time_shift, bin_stretch, seed=self.seed + 1, name="warp")

    @property
    def widths(self) -> tuple[int, ...]:
        return PRESETS[self.preset]["widths"]

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        return PRESETS[self.preset]["strides"]

    def make_train_function(self, force=False):
        """As Keras's; it is called before the first training step."""
        silent = self.network == "convolutional" and self.linear == "principal"
        if silent and not np.any(ops.convert_to_numpy(self.decoder.get_layer("linear").kernel)):
            warnings.warn(
                "the linear path is silent and is not trained: call initialise(training features) before fit, or use "
                "linear='learned'",
                stacklevel=3,
            )
        return super().make_train_function(force)

    def augment(self, features, training: bool):
        """What to encode and to be compared with: in training, features at another tempo or pitch, if asked for."""
        return self.warp(features, training=True) if training and self.warp is not None else features

    def initialise(self, batches) -> PrincipalComponents | None:
        """Put the principal components of the training features into a linear path that is to hold them.

        Returns:
            The components; None where nothing depends on the data.
        """
        if self.network != "convolutional" or self.linear != "principal":
            return None
        found = principal_components(batches, self.latent_dim, seed=self.seed)
        directions = np.zeros((self.latent_dim, self.cells), np.float32)
        scale = np.ones((self.latent_dim, 1), np.float32)
        directions[: len(found.components)] = found.components
        scale[: len(found.components), 0] = np.sqrt(found.variances)
        into, out_of = directions / scale, directions * scale
        mean = found.mean.ravel()
        self.encoder.get_layer("linear").set_weights([into.T, -into @ mean])
        self.decoder.get_layer("linear").set_weights([out_of, mean])
        # The convolutions start with nothing to say, so that the whole starts as PCA.
        for layer in (self.encoder.get_layer("curved"), self.decoder.get_layer("up_0")):
            layer.kernel.assign(ops.zeros(layer.kernel.shape))
        return found

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "network": self.network,
            "hidden": self.hidden,
            "head": self.head,
            "linear": self.linear,
            "latent_norm": self.latent_norm,
            "time_stretch": self.time_stretch,
            "time_shift": self.time_shift,
            "bin_stretch": self.bin_stretch,
        }


def encode(inputs, options: Trainer):
    """Features (batch, bins, frames, channels) -> what the network makes of them (batch, units), and the latent's
    mean from it (batch, latent_dim)."""
    x = hidden_of(inputs, options)
    if options.network == "convolutional":
        linear = keras.layers.Flatten(name="cells")(inputs)
        linear = _linear_path(options, options.latent_dim, encoder=True)(linear)
        mean = keras.layers.Add(name="mean")([keras.layers.Dense(options.latent_dim, name="curved")(x), linear])
    else:
        mean = keras.layers.Dense(options.latent_dim, name="mean")(x)
    if options.latent_norm:
        mean = keras.layers.BatchNormalization(
            momentum=0.9, center=False, scale=False, dtype="float32", name="latent_norm"
        )(mean)
    return x, mean


def hidden_of(inputs, options: Trainer):
    """Features -> hidden units (batch, units): the encoder up to its last layer."""
    if options.network == "linear":
        return keras.layers.Flatten(name="cells")(inputs)
    if options.network == "dense":
        x = keras.layers.Flatten(name="flatten")(inputs)
        return keras.layers.Dense(options.hidden, activation="leaky_relu", name="hidden")(x)
    x = base.pad_to_multiple(inputs, options.feature_shape, options.strides)
    for index, (width, stride) in enumerate(zip(options.widths, options.strides)):
        kernel = [max(3, 2 * s - 1) for s in stride]
        x = keras.layers.Conv2D(width, kernel, stride, padding="same", activation="leaky_relu", name=f"down_{index}")(x)
    if options.head == "pool":
        return keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.layers.Flatten(name="flatten")(x)


def build_decoder(options: Trainer, output: str = "features") -> keras.Model:
    """Latent (batch, latent_dim) -> features (batch, bins, frames, channels); with speakers ``[latent, speaker]``.

    The speaker scales and shifts the channels of each stage, and shifts each cell of the linear path.

    Args:
        output: ``"features"``; ``"moments"``: features too, from a layer ``likelihood`` that also has the log-variance
            of each cell; ``"sigma"``: features too, with a layer ``sigma`` that holds one for each channel;
            ``"probabilities"``: of [0, 1], the sigmoid of a layer ``logits``.
    """
    inputs = keras.Input((options.latent_dim,), name="latent")
    speaker, voice = conditioning.speaker_input(options.speakers)
    x = inputs
    if options.network == "dense":
        x = keras.layers.Dense(options.hidden, activation="leaky_relu", name="hidden")(x)
        x = conditioning.modulate(x, voice, "hidden")
    elif options.network == "convolutional":
        x = _to_half_way(x, options, voice)

    def cells(suffix=""):
        if options.network == "convolutional":
            return _to_full_resolution(x, options, suffix, voice)
        y = keras.layers.Dense(options.cells, name=f"linear{suffix}")(x)
        y = conditioning.modulate(y, voice, f"linear{suffix}", scale=False)
        return keras.layers.Reshape(options.feature_shape, name=f"cells{suffix}")(y)

    y = cells()
    if options.network == "convolutional":
        linear = _linear_path(options, options.cells, encoder=False)(inputs)
        linear = conditioning.modulate(linear, voice, "linear", scale=False)
        linear = keras.layers.Reshape(options.feature_shape, name="cells")(linear)
        y = keras.layers.Add(name="sum")([y, linear])
    activation = "linear"
    if output == "moments":
        y = keras.layers.Concatenate(name="moments")([y, cells("_log_variance")])
        y, _ = layers.GaussianParameters(name="likelihood")(y)
    elif output == "sigma":
        y = layers.CalibratedSigma(name="sigma")(y)
    elif output == "probabilities":
        y = keras.layers.Activation("linear", dtype="float32", name="logits")(y)
        activation = "sigmoid"
    y = keras.layers.Activation(activation, dtype="float32", name="features")(y)
    return keras.Model(conditioning.inputs_of(inputs, speaker), y, name="decoder")


def _to_half_way(x, options: Trainer, voice):
    """Latent -> the feature maps from which the last layer makes full resolution."""
    widths, strides = options.widths, options.strides
    height, width = base.reduced_shape(options.feature_shape, strides)
    x = keras.layers.Dense(height * width * widths[-1], activation="leaky_relu", name="project")(x)
    x = keras.layers.Reshape((height, width, widths[-1]), name="unflatten")(x)
    x = conditioning.modulate(x, voice, "project")
    for index in reversed(range(1, len(widths))):
        filters = widths[index - 1] * math.prod(strides[index])
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="leaky_relu", name=f"up_{index}")(x)
        x = conditioning.modulate(x, voice, f"up_{index}")
        x = layers.PixelShuffle(strides[index], name=f"shuffle_{index}")(x)
    return x


def _to_full_resolution(x, options: Trainer, suffix: str, voice):
    filters = options.feature_shape[-1] * math.prod(options.strides[0])
    x = keras.layers.Conv2D(filters, 3, padding="same", name=f"up_0{suffix}")(x)
    x = conditioning.modulate(x, voice, f"up_0{suffix}")
    x = layers.PixelShuffle(options.strides[0], name=f"shuffle_0{suffix}")(x)
    return base.crop_to_shape(x, options.feature_shape, f"crop{suffix}")


def _linear_path(options: Trainer, units: int, *, encoder: bool):
    if options.linear == "learned":
        return keras.layers.Dense(units, use_bias=not encoder, name="linear")
    # Silent until initialise() fills it; in float32, since it is exact and never trained.
    return keras.layers.Dense(units, kernel_initializer="zeros", trainable=False, dtype="float32", name="linear")
