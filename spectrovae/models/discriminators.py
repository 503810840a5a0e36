"""Discriminators of waveforms, for adversarial training: at several scales, and of several periods.

Each takes waveforms (batch, samples) of any length and returns a list for each of its parts: the feature maps of its
layers, after activation, and last the logits; high means real. Losses of them are in :mod:`spectrovae.losses`.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from spectrovae.errors import InputError

Judgement = list[list[Any]]
"""For each part of a discriminator its feature maps (rows, steps, channels), the last the logits (rows, steps, 1)."""


class Strided(keras.layers.Layer):
    """Strided convolutions, leaky ReLU 0.2 after each, and logits; channels double from layer to layer."""

    def __init__(self, capacity: int, depth: int, kernel: int, stride: int, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = [
            keras.layers.Conv1D(
                capacity * 2**index,
                kernel,
                stride,
                padding="same",
                kernel_initializer="he_normal",
                name=f"conv_{index}",
            )
            for index in range(depth)
        ]
        self.logits = keras.layers.Conv1D(1, 1, dtype="float32", name="logits")

    def build(self, input_shape):
        channels = input_shape[-1]
        for layer in [*self.convolutions, self.logits]:
            layer.build((None, None, channels))
            channels = layer.filters
        self.built = True

    def call(self, x):
        """(rows, steps, channels) -> list of feature maps, the last the logits."""
        maps = []
        for layer in self.convolutions:
            x = ops.leaky_relu(layer(x), 0.2)
            maps.append(x)
        return [*maps, self.logits(x)]


@keras.saving.register_keras_serializable("spectrovae")
class MultiScale(keras.layers.Layer):
    """The waveform, its average over 2 samples, over 4, and so on, each with strided convolutions of its own.

    MelGAN (Kumar et al., 2019, arXiv 1910.06711), with the plain convolutions of RAVE (Caillon and Esling, 2021, arXiv
    2111.05011): each of 15 taps and stride 4.

    Args:
        capacity: channels of the first layer; RAVE has 64.
        scales: number of scales.
        depth: strided layers at each.
    """

    def __init__(self, capacity: int = 16, scales: int = 3, depth: int = 4, **kwargs):
        super().__init__(**kwargs)
        _check(capacity=capacity, scales=scales, depth=depth)
        self.capacity, self.scales, self.depth = capacity, scales, depth
        self.parts = [Strided(capacity, depth, 15, 4, name=f"scale_{2**index}") for index in range(scales)]

    def build(self, input_shape):
        for part in self.parts:
            part.build((None, None, 1))
        self.built = True

    def call(self, waveform) -> Judgement:
        x = ops.expand_dims(waveform, -1)
        judged = []
        for index, part in enumerate(self.parts):
            x = ops.average_pool(x, 2, 2, padding="valid") if index else x
            judged.append(part(x))
        return judged

    def get_config(self):
        return {**super().get_config(), "capacity": self.capacity, "scales": self.scales, "depth": self.depth}


@keras.saving.register_keras_serializable("spectrovae")
class MultiPeriod(keras.layers.Layer):
    """Samples a period apart, for each period with strided convolutions of its own.

    HiFi-GAN (Kong, Kim and Bae, 2020, arXiv 2010.05646): kernels of 5 by 1 and strides of 3 by 1 over the waveform
    folded to (samples / period, period). The columns of that map never meet, so here they are rows of a batch, example
    by example, and convolutions are in one dimension. Zeros fill the last period.

    Args:
        capacity: channels of the first layer; HiFi-GAN has 32.
        periods: in samples; primes, so that none repeats another.
        depth: strided layers for each.
    """

    def __init__(self, capacity: int = 16, periods: Sequence[int] = (2, 3, 5, 7, 11), depth: int = 4, **kwargs):
        super().__init__(**kwargs)
        _check(capacity=capacity, depth=depth, periods=min(periods, default=0))
        self.capacity, self.periods, self.depth = capacity, tuple(periods), depth
        self.parts = [Strided(capacity, depth, 5, 3, name=f"period_{period}") for period in self.periods]

    def build(self, input_shape):
        for part in self.parts:
            part.build((None, None, 1))
        self.built = True

    def call(self, waveform) -> Judgement:
        return [part(self._fold(waveform, period)) for part, period in zip(self.parts, self.periods)]

    def _fold(self, waveform, period: int):
        """(batch, samples) -> (batch * period, samples / period, 1)."""
        turns = (ops.shape(waveform)[1] + period - 1) // period
        padded = ops.pad(waveform, [[0, 0], [0, period - 1]])[:, : turns * period]
        columns = ops.transpose(ops.reshape(padded, (-1, turns, period)), (0, 2, 1))
        return ops.reshape(columns, (-1, turns, 1))

    def get_config(self):
        return {
            **super().get_config(),
            "capacity": self.capacity,
            "periods": list(self.periods),
            "depth": self.depth,
        }


@keras.saving.register_keras_serializable("spectrovae")
class Discriminators(keras.layers.Layer):
    """:class:`MultiScale` and, unless there are no periods, :class:`MultiPeriod`; their lists one after the other.

    Args:
        capacity: channels of the first layers.
        scales: of the first; 3 in RAVE.
        periods: of the second, in samples; none in RAVE's first version.
    """

    def __init__(
        self, capacity: int = 16, scales: int = 3, periods: Sequence[int] = (2, 3, 5, 7, 11), depth: int = 4, **kwargs
    ):
        super().__init__(**kwargs)
        self.capacity, self.scales, self.periods, self.depth = capacity, scales, tuple(periods), depth
        self.parts: list[Any] = [MultiScale(capacity, scales, depth, name="multi_scale")]
        if periods:
            self.parts.append(MultiPeriod(capacity, periods, depth, name="multi_period"))

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)
        self.built = True

    def call(self, waveform) -> Judgement:
        return [maps for part in self.parts for maps in part(waveform)]

    def get_config(self):
        return {
            **super().get_config(),
            "capacity": self.capacity,
            "scales": self.scales,
            "periods": list(self.periods),
            "depth": self.depth,
        }


def judge(discriminator, variables, waveform) -> Judgement:
    """What a discriminator that is built makes of a waveform (batch, samples) with ``variables`` for its weights."""
    return discriminator.stateless_call(variables, discriminator.non_trainable_variables, waveform)[0]


def players(discriminator, real, fake) -> tuple[tuple[Judgement, Judgement], tuple[Judgement, Judgement]]:
    """((real, fake) for the generator's losses, (real, fake) for the discriminators'), of waveforms (batch, samples).

    The generator's move no weight of the discriminators, and theirs not the generator, so that one step may follow the
    gradient of the sum of both. Real sounds are judged once.
    """
    fixed = [ops.stop_gradient(ops.convert_to_tensor(variable)) for variable in discriminator.trainable_variables]
    judged = discriminator(real), discriminator(ops.stop_gradient(fake))
    seen = [[ops.stop_gradient(x) for x in maps] for maps in judged[0]], judge(discriminator, fixed, fake)
    return seen, judged


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} must be 1 or more, received {number}")
