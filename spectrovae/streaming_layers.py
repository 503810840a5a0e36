"""Convolutions over time that know how to go on: whole sounds at once, or blocks with a state in between.

Layers take and return (batch, steps, channels). One that remembers has ``initial_state(batch)``, a list of tensors
with the batch first, and ``step(x, state) -> (y, state)``, which for a causal layer gives, block after block, exactly
what ``call`` gives for all blocks at once. Only ``keras.ops``.
"""

import math

import keras
import numpy as np
from keras import ops

from spectrovae.errors import InputError

# Outputs of a step up to which its taps are gathered for one matrix product. A convolution of so short an input spends
# its time on laying out the kernel anew, a dilated one the input too; a product reads the weights once, as they are.
SHORT = 128


class Remembering(keras.layers.Layer):
    """A layer whose output depends on inputs before the block; ``causal`` where on none after it."""

    causal = True

    def state_specs(self) -> list[tuple[tuple[int, ...], str]]:
        """Shape without the batch, and type, of each tensor of the state; all begin as zeros."""
        raise NotImplementedError

    def step(self, x, state):
        """A block (batch, steps, channels) and the state before it -> the block's output and the state after it."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> list:
        """The state before a sound's first block."""
        return [ops.zeros((batch, *shape), kind) for shape, kind in self.state_specs()]


@keras.saving.register_keras_serializable("spectrovae")
class Convolution(Remembering):
    """One-dimensional convolution whose padding keeps ``steps / stride`` outputs.

    Zeros are put before the input if ``causal``, so that an output sees its own stride of inputs and those before;
    otherwise half of them before and half after.

    Args:
        filters: channels of the output.
        kernel_size: taps, at least ``stride``.
        stride: inputs an output; the number of steps must be a multiple of it.
        dilation: steps between taps.
        groups: of channels that do not meet.
        causal: whether no later input is seen.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        causal: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.stride, self.dilation = filters, kernel_size, stride, dilation
        self.groups, self.causal = groups, causal
        self.reach = (kernel_size - 1) * dilation + 1 - stride  # inputs beyond its own stride that an output sees
        if min(filters, kernel_size, stride, dilation, groups) < 1 or self.reach < 0:
            raise InputError(
                "filters, kernel_size, stride, dilation and groups must be at least 1, and the kernel span its stride; "
                f"received {filters}, {kernel_size}, {stride}, {dilation} and {groups}"
            )

    def build(self, input_shape):
        self.channels = input_shape[-1]
        if self.channels % self.groups or self.filters % self.groups:
            raise InputError(f"{self.groups} groups must divide {self.channels} channels and {self.filters} filters")
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.channels // self.groups, self.filters),
            initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x):
        if not self.causal:  # as many zeros, since the stride divides the steps, and no copy of the input
            return self._convolved(x, "same")
        return self._convolved(ops.pad(x, [[0, 0], [self.reach, 0], [0, 0]]))

    def state_specs(self):
        return [((self.reach, self.channels), self.compute_dtype)] if self.reach else []

    def step(self, x, state):
        convolved = self._multiplied if 0 < (x.shape[1] or 0) // self.stride <= SHORT else self._convolved
        if not self.reach:
            return convolved(x), []
        x = ops.concatenate([state[0], x], axis=1)
        return convolved(x), [x[:, -self.reach :]]

    def compute_output_shape(self, input_shape):
        batch, steps, _ = input_shape
        return (batch, None if steps is None else steps // self.stride, self.filters)

    def _convolved(self, x, padding="valid"):
        return self._by_group(
            x, lambda x, k: ops.conv(x, k, self.stride, padding, "channels_last", self.dilation)
        )  # fmt: skip

    def _multiplied(self, x):
        """As :meth:`_convolved`, of an input whose number of steps is known."""
        steps = x.shape[1] - self.reach
        return self._by_group(x, lambda x, k: _gathered(x, k, self.stride, self.dilation, steps))

    def _by_group(self, x, convolve):
        """Group by group: grouped convolutions are compiled anew for each length on some backends."""
        kernel = ops.cast(self.kernel, x.dtype)
        parts = zip(ops.split(x, self.groups, axis=-1), ops.split(kernel, self.groups, axis=-1))
        found = [convolve(*part) for part in parts]
        y = found[0] if self.groups == 1 else ops.concatenate(found, axis=-1)
        return y + ops.cast(self.bias, y.dtype)

    def get_config(self):
        names = ("filters", "kernel_size", "stride", "dilation", "groups", "causal")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _gathered(padded, kernel, stride: int, dilation: int, steps: int):
    """A valid convolution over ``steps`` inputs and those that the kernel reaches beyond: its taps in one product."""
    taps, channels, filters = kernel.shape
    rows = [padded[:, tap * dilation : tap * dilation + steps : stride] for tap in range(taps)]
    rows = ops.reshape(ops.concatenate(rows, axis=-1), (-1, taps * channels))
    x = ops.matmul(rows, ops.reshape(kernel, (taps * channels, filters)))
    return ops.reshape(x, (-1, steps // stride, filters))


@keras.saving.register_keras_serializable("spectrovae")
class Upsampling(Remembering):
    """Transposed convolution of ``2 * ratio`` taps and stride ``ratio``, as an ordinary one of two taps and a reshape.

    Each input makes ``ratio`` outputs, together with the input before it (``causal``) or with those on either side.

    Args:
        filters: channels of the output.
        ratio: outputs an input.
        causal: whether no later input is seen.
    """

    def __init__(self, filters: int, ratio: int, causal: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.ratio, self.causal = filters, ratio, causal
        if min(filters, ratio) < 1:
            raise InputError(f"filters and ratio must be at least 1, received {filters} and {ratio}")

    def build(self, input_shape):
        self.channels = input_shape[-1]
        # Taps of both inputs for each of the ratio outputs; as wide as those of a transposed convolution.
        limit = 1.0 / math.sqrt(2 * self.channels)
        self.kernel = self.add_weight(
            shape=(2, self.channels, self.ratio * self.filters),
            initializer=keras.initializers.RandomUniform(-limit, limit),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x):
        if self.causal:
            return self._raised(ops.pad(x, [[0, 0], [1, 0], [0, 0]]))
        # One output block more than inputs, of which half a block is cut at either end.
        raised = self._raised(ops.pad(x, [[0, 0], [1, 1], [0, 0]]))
        first = self.ratio - self.ratio // 2
        return raised[:, first : ops.shape(raised)[1] - (self.ratio - first)]

    def state_specs(self):
        return [((1, self.channels), self.compute_dtype)]

    def step(self, x, state):
        padded = ops.concatenate([state[0], x], axis=1)
        return self._raised(padded, 0 < (x.shape[1] or 0) <= SHORT), [x[:, -1:]]

    def compute_output_shape(self, input_shape):
        batch, steps, _ = input_shape
        return (batch, None if steps is None else steps * self.ratio, self.filters)

    def _raised(self, padded, short=False):
        kernel = ops.cast(self.kernel, padded.dtype)
        if short:
            x = _gathered(padded, kernel, 1, 1, padded.shape[1] - 1)
        else:
            x = ops.conv(padded, kernel, 1, "valid", "channels_last")
        x = ops.reshape(x, (ops.shape(x)[0], -1, self.filters))
        return x + ops.cast(self.bias, x.dtype)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "ratio": self.ratio, "causal": self.causal}


@keras.saving.register_keras_serializable("spectrovae")
class FilteredNoise(Remembering):
    """Noise through filters of given amplitudes: (batch, blocks, channels * bands) -> (batch, steps, channels).

    Each block of ``size`` steps has a linear-phase filter of its own, of ``2 * (bands - 1)`` taps in a Hann window,
    with these amplitudes at evenly spaced frequencies. In training the noise, uniform in [-1, 1], is new each time.
    Otherwise it is one fixed stretch of ``PERIOD`` steps, over and over, so that a decoder answers the same each time
    and a stream goes on where it was.

    Args:
        channels: independent noises.
        bands: amplitudes of each filter, at least 2.
        size: steps of a block.
        seed: of both noises.

    Attributes:
        gate: what the output is multiplied by; a weight, so that a saved decoder knows whether it is heard.
    """

    PERIOD = 4096

    def __init__(self, channels: int, bands: int, size: int, seed: int = 0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.channels, self.bands, self.size, self.seed = channels, bands, size, seed
        if channels < 1 or bands < 2 or size < 1:
            raise InputError(f"channels, bands (2) and size must be larger, received {channels}, {bands} and {size}")
        self.generator = keras.random.SeedGenerator(seed)
        self.stretch = np.random.default_rng(seed).uniform(-1.0, 1.0, (self.PERIOD, channels)).astype(np.float32)
        # Amplitudes -> taps, the real and even inverse DFT moved to the middle of its window.
        taps = 2 * (bands - 1)
        time, band = np.arange(taps) - taps // 2, np.arange(bands)
        weight = np.where((band == 0) | (band == bands - 1), 1.0, 2.0)
        window = 0.5 + 0.5 * np.cos(2 * np.pi * time / taps)
        basis = weight * np.cos(np.pi * np.outer(time, band) / (bands - 1)) / taps * window[:, None]
        self.basis = basis.T.astype(np.float32)  # (bands, taps)

    @property
    def taps(self) -> int:
        return self.basis.shape[1]

    def build(self, input_shape):
        self.gate = self.add_weight(shape=(), initializer="zeros", trainable=False, name="gate")
        self.built = True

    def call(self, amplitudes, training=False):
        batch, blocks = ops.shape(amplitudes)[0], ops.shape(amplitudes)[1]
        if training:
            shape = (batch, blocks * self.size + self.taps - 1, self.channels)
            noise = keras.random.uniform(shape, -1.0, 1.0, seed=self.generator)
        else:
            noise = self._fixed(ops.zeros((1, 1), "int32"), blocks)
        return self._filtered(amplitudes, noise)

    def state_specs(self):
        return [((1,), "int32")]  # steps done, modulo PERIOD

    def step(self, amplitudes, state):
        blocks = ops.shape(amplitudes)[1]
        done = ops.mod(state[0] + ops.cast(blocks, "int32") * self.size, self.PERIOD)
        return self._filtered(amplitudes, self._fixed(state[0], blocks)), [done]

    def compute_output_shape(self, input_shape):
        batch, blocks, _ = input_shape
        return (batch, None if blocks is None else blocks * self.size, self.channels)

    def _fixed(self, start, blocks):
        """The stretch from a place (batch, 1) on, with the steps before it that the taps reach."""
        reach = self.taps - 1
        place = start + ops.arange(-reach, blocks * self.size, dtype="int32")[None]
        return ops.take(ops.convert_to_tensor(self.stretch), ops.mod(place + self.PERIOD, self.PERIOD), axis=0)

    def _filtered(self, amplitudes, noise):
        batch, blocks = ops.shape(amplitudes)[0], ops.shape(amplitudes)[1]
        amplitudes = ops.reshape(ops.cast(amplitudes, "float32"), (batch, blocks, self.channels, self.bands))
        filters = ops.matmul(amplitudes, ops.convert_to_tensor(self.basis))[:, :, None]  # (.., 1, channels, taps)
        steps, total = blocks * self.size, 0.0
        for tap in range(self.taps):
            delayed = noise[:, self.taps - 1 - tap : self.taps - 1 - tap + steps]
            delayed = ops.reshape(delayed, (-1, blocks, self.size, self.channels))
            total = total + filters[..., tap] * delayed
        return self.gate * ops.reshape(total, (batch, steps, self.channels))

    def get_config(self):
        names = ("channels", "bands", "size", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
