"""U-Net baseline (Ronneberger, Fischer and Brox, 2015): contracting and expanding paths with long skip connections.

With all its skips no bottleneck binds it: the first one carries full resolution, so it is a ceiling for reconstruction
and a warning for every measure that an identity would also win. Without some of them, or with noise on them, it shows
what they were used for. Few channels at full resolution keep it fast.
"""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from spectrovae import layers, losses
from spectrovae.errors import InputError
from spectrovae.models import base

# widths at full resolution and after each halving
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (4, 8, 8)},
    "small": {"widths": (8, 16, 32, 64, 128)},
    "base": {"widths": (32, 64, 128, 256, 512)},
}


def build_encoder(feature_shape, widths, skips) -> keras.Model:
    """Features -> [bottleneck, deepest skip, ..., shallowest skip], each (batch, height, width, channels).

    The bottleneck alone where there are no skips.
    """
    inputs = keras.Input(feature_shape, name="features")
    x = base.pad_to_multiple(inputs, feature_shape, [(2, 2)] * (len(widths) - 1))
    levels = []
    for index, width in enumerate(widths):
        strides = 2 if index else 1
        x = keras.layers.Conv2D(width, 3, strides, padding="same", activation="relu", name=f"down_{index}")(x)
        levels.append(x)
    x = keras.layers.Conv2D(widths[-1], 3, padding="same", activation="relu", name="bottleneck")(x)
    kept = [levels[index] for index in reversed(skips)]
    return keras.Model(inputs, [x, *kept] if kept else x, name="encoder")


def build_decoder(feature_shape, widths, skips) -> keras.Model:
    """[bottleneck, deepest skip, ..., shallowest skip] -> features (batch, bins, frames, channels)."""
    depth = len(widths) - 1
    height, width = base.reduced_shape(feature_shape, [(2, 2)] * depth)
    x = keras.Input((height, width, widths[-1]), name="bottleneck")
    inputs = [x]
    for index in reversed(range(depth)):
        x = keras.layers.Conv2D(widths[index] * 4, 3, padding="same", activation="relu", name=f"up_{index}")(x)
        x = layers.PixelShuffle((2, 2), name=f"shuffle_{index}")(x)
        if index in skips:
            scale = 2 ** (depth - index)
            inputs.append(keras.Input((height * scale, width * scale, widths[index]), name=f"skip_{index}"))
            x = keras.layers.Concatenate(name=f"join_{index}")([x, inputs[-1]])
        x = keras.layers.Conv2D(widths[index], 3, padding="same", activation="relu", name=f"merge_{index}")(x)
    x = keras.layers.Conv2D(feature_shape[-1], 1, dtype="float32", name="output")(x)
    x = base.crop_to_shape(x, feature_shape)
    features = keras.layers.Activation("linear", dtype="float32", name="features")(x)
    return keras.Model(inputs if skips else inputs[0], features, name="decoder")


@keras.saving.register_keras_serializable("spectrovae")
class UNet(base.Trainer):
    """U-Net trainer: ``encoder`` returns the bottleneck and the skips, ``decoder`` takes them. Loss: RMSE.

    Args:
        feature_shape: (bins, frames, channels).
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU).
        skips: which skips there are, by the halvings before them: 0 is the one of full resolution. None for all,
            an empty tuple for none, which leaves a plain autoencoder with a bottleneck map.
        skip_noise: noise on the skips in training, in standard deviations of each skip's values: the more, the more
            has to go through the bottleneck.
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin; the loss is reported in dB too.
        seed: of the model.

    Metrics: ``rmse_db``, in dB.
    """

    def __init__(
        self,
        feature_shape,
        *,
        preset: str = "small",
        skips: Iterable[int] | None = None,
        skip_noise: float = 0.0,
        db_per_unit=None,
        seed: int | None = 0,
        **kwargs,
    ):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, db_per_unit=db_per_unit, seed=seed, **kwargs)
        widths = PRESETS[preset]["widths"]
        levels = range(len(widths) - 1)
        self.skips = tuple(levels if skips is None else sorted(set(skips)))
        if not set(self.skips) <= set(levels):
            raise InputError(f"skips must be among {tuple(levels)} in preset {preset!r}, received {self.skips}")
        if not skip_noise >= 0.0:
            raise InputError(f"skip_noise must be 0 or more standard deviations, received {skip_noise!r}")
        self.skip_noise = float(skip_noise)
        self.encoder = build_encoder(self.feature_shape, widths, self.skips)
        self.decoder = build_decoder(self.feature_shape, widths, self.skips)
        self.sampling = layers.Sampling(seed=self.seed, name="sampling")

    def call(self, features, training=False):
        latent = self.encoder(features, training=training)
        if training and self.skip_noise and self.skips:
            latent = [latent[0], *(self._noisy(skip) for skip in latent[1:])]
        return {"features": self.decoder(latent, training=training)}

    def _noisy(self, skip):
        # The variance: a deviation has no derivative at 0, where skips of silence may lie.
        variance = self.skip_noise**2 * ops.var(ops.cast(skip, "float32"))
        return self.sampling(skip, ops.log(variance + 1e-12) * ops.ones_like(skip))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = self.target_of(x, y, sample_weight)
        self.track_error(target, y_pred["features"])
        return ops.mean(losses.root_mean_squared_error(target, y_pred["features"]))

    def get_config(self):
        return {**super().get_config(), "skips": self.skips, "skip_noise": self.skip_noise}
