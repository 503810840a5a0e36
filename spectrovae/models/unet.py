"""U-Net baseline (Ronneberger, Fischer and Brox, 2015): contracting and expanding paths with long skip connections.

No bottleneck binds it: the first skip carries full resolution, so it is a ceiling for reconstruction and a warning for
every measure that an identity would also win. Few channels at full resolution keep it fast.
"""

import keras
from keras import ops

from spectrovae import layers, losses
from spectrovae.models import base

# widths at full resolution and after each halving
PRESETS = {
    "tiny": {"widths": (4, 8, 8)},
    "small": {"widths": (8, 16, 32, 64, 128)},
    "base": {"widths": (32, 64, 128, 256, 512)},
}


def build_encoder(feature_shape, widths) -> keras.Model:
    """Features -> [bottleneck, deepest skip, ..., full-resolution skip], each (batch, height, width, channels)."""
    inputs = keras.Input(feature_shape, name="features")
    x = base.pad_to_multiple(inputs, feature_shape, [(2, 2)] * (len(widths) - 1))
    skips = []
    for index, width in enumerate(widths):
        strides = 2 if index else 1
        x = keras.layers.Conv2D(width, 3, strides, padding="same", activation="relu", name=f"down_{index}")(x)
        skips.append(x)
    bottleneck = keras.layers.Conv2D(widths[-1], 3, padding="same", activation="relu", name="bottleneck")(skips.pop())
    return keras.Model(inputs, [bottleneck, *reversed(skips)], name="encoder")


def build_decoder(feature_shape, widths) -> keras.Model:
    """[bottleneck, deepest skip, ..., full-resolution skip] -> features (batch, bins, frames, channels)."""
    height, width = base.reduced_shape(feature_shape, [(2, 2)] * (len(widths) - 1))
    bottleneck, *skips = inputs = [
        keras.Input((height * 2**up, width * 2**up, channels), name=f"skip_{up}" if up else "bottleneck")
        for up, channels in enumerate(reversed(widths))
    ]
    x = bottleneck
    for index, skip in reversed(list(enumerate(reversed(skips)))):
        x = keras.layers.Conv2D(widths[index] * 4, 3, padding="same", activation="relu", name=f"up_{index}")(x)
        x = layers.PixelShuffle((2, 2), name=f"shuffle_{index}")(x)
        x = keras.layers.Concatenate(name=f"join_{index}")([x, skip])
        x = keras.layers.Conv2D(widths[index], 3, padding="same", activation="relu", name=f"merge_{index}")(x)
    x = keras.layers.Conv2D(feature_shape[-1], 1, dtype="float32", name="output")(x)
    x = base.crop_to_shape(x, feature_shape)
    return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32", name="features")(x), name="decoder")


@keras.saving.register_keras_serializable("spectrovae")
class UNet(base.Trainer):
    """U-Net trainer: ``encoder`` returns the bottleneck and the skips, ``decoder`` takes them. Loss: RMSE.

    Args:
        feature_shape: (bins, frames, channels).
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU).
        db_per_unit: dB that a unit of a feature is worth, a number or one per bin; the loss is reported in dB too.
        seed: of the model.

    Metrics: ``rmse_db``, in dB.
    """

    def __init__(self, feature_shape, *, preset: str = "small", db_per_unit=1.0, seed: int = 0, **kwargs):
        super().__init__(feature_shape, preset=preset, presets=PRESETS, db_per_unit=db_per_unit, seed=seed, **kwargs)
        widths = PRESETS[preset]["widths"]
        self.encoder = build_encoder(self.feature_shape, widths)
        self.decoder = build_decoder(self.feature_shape, widths)

    def call(self, features, training=False):
        return {"features": self.decoder(self.encoder(features, training=training), training=training)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = x if y is None else y
        self.track_error(target, y_pred["features"])
        return ops.mean(losses.root_mean_squared_error(target, y_pred["features"]))
