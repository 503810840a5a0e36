"""Layers that Keras lacks, in ``keras.ops`` alone. Importing this registers all that a saved part may hold."""

import math

import keras
import numpy as np
from keras import ops

from spectrovae import quantisers as quantisers  # registers its layers
from spectrovae import streaming_layers as streaming_layers  # likewise

_package = "spectrovae"


@keras.saving.register_keras_serializable(_package)
class GaussianParameters(keras.layers.Layer):
    """Split the last dimension into the mean and log-variance of a diagonal Gaussian.

    Computes in float32 under any precision policy. Log-variances are bounded smoothly to [-12, 6], where neither
    ``exp`` overflows nor a gradient dies.

    Input shape: (..., 2 d). Output: ``(mean, log_variance)``, each (..., d).
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs):
        mean, log_variance = ops.split(ops.cast(inputs, "float32"), 2, axis=-1)
        return mean, -3.0 + 9.0 * ops.tanh((log_variance + 3.0) / 9.0)

    @staticmethod
    def unbounded(log_variance: np.ndarray) -> np.ndarray:
        """What must go in for these log-variances to come out; at the bounds and beyond them, for ones just inside."""
        return 9.0 * np.arctanh(np.clip((log_variance + 3.0) / 9.0, -0.99, 0.99)) - 3.0

    def compute_output_shape(self, input_shape):
        half = (*input_shape[:-1], input_shape[-1] // 2)
        return half, half


@keras.saving.register_keras_serializable(_package)
class Sampling(keras.layers.Layer):
    """Draw z = mean + exp(log_variance / 2) * noise, the reparameterisation of Kingma and Welling (2014).

    Args:
        seed: of the layer's own noise generator, whose state is saved with the layer.

    Input: ``(mean, log_variance)``, each (..., d). Output shape: (..., d).
    """

    def __init__(self, seed: int = 0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def build(self, mean_shape, log_variance_shape):
        """No weights; with the names of the inputs, for Keras's ``summary``."""

    def call(self, mean, log_variance):
        noise = keras.random.normal(ops.shape(mean), seed=self.generator)
        return mean + ops.exp(0.5 * log_variance) * noise

    def compute_output_shape(self, mean_shape, log_variance_shape):
        return mean_shape

    def save_own_variables(self, store):
        store["noise"] = ops.convert_to_numpy(self.generator.state)

    def load_own_variables(self, store):
        self.generator.state.assign(store["noise"])

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(_package)
class FromPrior(keras.layers.Layer):
    """Whitened latent u to latent z = mean + std * u, given its prior's (mean, log std) in one tensor.

    Computes in float32 under any precision policy. The log standard deviation is bounded smoothly to [-5, 5], as in
    NVAE (Vahdat and Kautz, 2020).

    Input shapes: u (..., d), prior (..., 2 d). Output: (..., d).
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, whitened, prior):
        mean, log_std = ops.split(ops.cast(prior, "float32"), 2, axis=-1)
        return mean + ops.exp(5.0 * ops.tanh(log_std / 5.0)) * ops.cast(whitened, "float32")

    def compute_output_shape(self, whitened_shape, prior_shape):
        return whitened_shape


@keras.saving.register_keras_serializable(_package)
class PixelShuffle(keras.layers.Layer):
    """Rearrange channels into space: (batch, h, w, c r s) -> (batch, h r, w s, c) (Shi et al., 2016).

    With a convolution before it, this up-samples with all the work done at the lower resolution.

    Args:
        block: (r, s), the factors in height and width.
    """

    def __init__(self, block: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.block = tuple(block)

    def call(self, inputs):
        rows, columns = self.block
        _, height, width, channels = inputs.shape
        x = ops.reshape(inputs, (-1, height, width, rows, columns, channels // (rows * columns)))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * rows, width * columns, channels // (rows * columns)))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        rows, columns = self.block
        return (batch, height * rows, width * columns, channels // (rows * columns))

    def get_config(self):
        return {**super().get_config(), "block": self.block}


@keras.saving.register_keras_serializable(_package)
class CalibratedSigma(keras.layers.Layer):
    """Pass features on, and hold the standard deviation of the Gaussian around them, one a channel.

    It is a layer of the decoder, so that the likelihood is saved with it. In evaluation the batch's own sigma would
    flatter, and more the smaller the batch: PCA-128's errors on spoken digits by 75 to 93 nats a clip in batches of 32,
    by 1 100 alone.

    Sigma is the root of a running mean of the batches' mean squared errors, as the optimum for all of their clips is,
    whatever the batch size. It is the optimum for the clips, the noise and the weights of the last ``1 / (1 - decay)``
    training steps: while the squared error falls by a part r over these, it is late by about r. A small part r too many
    or too few costs r^2 / 4 nats a cell: 0.4 nats a clip of 16 384 cells at 1 %.

    Args:
        decay: of the running mean per training step; at first less, n / (n + 9) after n steps, so that the errors of
            the first steps are soon forgotten.

    Input and output: (..., channels). ``log_sigma``: (channels,), in feature units.
    """

    def __init__(self, decay: float = 0.99, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.decay = decay

    def build(self, input_shape):
        self.log_sigma = self.add_weight(
            shape=(input_shape[-1],), initializer="zeros", trainable=False, name="log_sigma"
        )
        self.updates = self.add_weight(shape=(), initializer="zeros", trainable=False, name="updates")

    def call(self, inputs):
        return inputs

    def update(self, log_sigma):
        """Take a batch's log sigma [shape=(channels,)] into the running mean of the variance."""
        decay = ops.minimum(self.decay, self.updates / (self.updates + 9.0))
        new = 2.0 * ops.stop_gradient(log_sigma)
        # By logarithms: squared errors cover more of float32's range than sums of them can.
        variances = ops.stack([2.0 * self.log_sigma + ops.log(decay + 1e-30), new + ops.log(1.0 - decay)])
        self.log_sigma.assign(0.5 * ops.logsumexp(variances, axis=0))
        self.updates.assign_add(1.0)

    @property
    def least_log_sigma(self):
        """Log of a tenth of sigma, at which :func:`spectrovae.losses.optimal_nll` bounds its gradient."""
        log_sigma = ops.convert_to_tensor(self.log_sigma)  # JAX takes no variable here
        return ops.where(self.updates > 0.0, log_sigma, math.log(1e-3)) - math.log(10.0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


@keras.saving.register_keras_serializable(_package)
class GradientReversal(keras.layers.Layer):
    """Hand on what comes, and turn its gradient round (Ganin and Lempitsky, 2015): y = x, dy/dx = -weight.

    What is trained behind it to tell something makes what is trained before it hide that.

    Args:
        weight: of the gradient that goes back, not negative; 0 lets none pass.

    Input and output: any shape, in float32.
    """

    def __init__(self, weight: float = 1.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.weight = weight

    def call(self, inputs):
        @ops.custom_gradient
        def reverse(x):
            def gradient(*args, upstream=None):
                return -self.weight * (args[0] if upstream is None else upstream)

            return x, gradient

        return reverse(ops.cast(inputs, "float32"))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}


@keras.saving.register_keras_serializable(_package)
class SpeakerEmbedding(keras.layers.Layer):
    """A vector for each of several speakers, and one for "nobody given".

    It holds their names, so that a decoder in a file of its own knows them.

    Args:
        names: of the speakers.
        dim: of a vector.

    Input: int32 (batch,), places among ``names``; their number, and whatever else is no place, is nobody.
    Output: (batch, dim).
    """

    def __init__(self, names, dim: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.names, self.dim = tuple(map(str, names)), int(dim)
        self.table = self.add_weight((len(self.names) + 1, self.dim), "random_normal", name="table")
        self.built = True

    def call(self, speaker):
        speaker = ops.cast(speaker, "int32")
        known = ops.logical_and(speaker >= 0, speaker < len(self.names))
        return ops.take(self.table, ops.where(known, speaker, len(self.names)), axis=0)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.dim)

    def get_config(self):
        return {**super().get_config(), "names": list(self.names), "dim": self.dim}


@keras.saving.register_keras_serializable(_package)
class Nobody(keras.layers.Layer):
    """Latents (batch, ...) -> int32 (batch,), the class of "nobody given" in each row.

    Args:
        index: of that class.
    """

    def __init__(self, index: int, **kwargs):
        super().__init__(**kwargs)
        self.index = int(index)

    def call(self, inputs):
        return ops.full((ops.shape(inputs)[0],), self.index, dtype="int32")

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((inputs.shape[0],), dtype="int32")

    def get_config(self):
        return {**super().get_config(), "index": self.index}


@keras.saving.register_keras_serializable(_package)
class Modulation(keras.layers.Layer):
    """Scale and shift each channel by a condition (FiLM, Perez et al., 2018): x (1 + a(c)) + b(c), a and b linear.

    At first a and b are 0: the condition changes nothing until it is learned what.

    Args:
        scale: False shifts alone.

    Input: x (batch, ..., channels) and the condition (batch, dim). Output: as x.
    """

    def __init__(self, scale: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.scale = bool(scale)

    def build(self, inputs_shape, condition_shape):
        units = inputs_shape[-1] * (2 if self.scale else 1)
        self.kernel = self.add_weight((condition_shape[-1], units), "zeros", name="kernel")

    def call(self, inputs, condition):
        found = ops.matmul(ops.cast(condition, self.compute_dtype), self.kernel)
        found = ops.reshape(found, (-1, *[1] * (len(inputs.shape) - 2), found.shape[-1]))
        if not self.scale:
            return inputs + found
        scale, shift = ops.split(found, 2, axis=-1)
        return inputs * (1.0 + scale) + shift

    def compute_output_shape(self, inputs_shape, condition_shape):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(_package)
class RandomWarp(keras.layers.Layer):
    """Play each example at a random tempo, from a random place and at a random pitch, by linear interpolation.

    Frame t of the output is frame t exp(u) + v of the input and bin b is bin b exp(w), with u, v and w uniform in
    +-time_stretch, +-time_shift and +-bin_stretch; beyond an end what is at that end is held. As Keras's augmentations
    it acts in training alone.

    Args:
        time_stretch: largest log of the change of tempo.
        time_shift: largest shift, in frames.
        bin_stretch: largest log of the change of frequency.
        seed: of the layer's own noise generator.

    Input and output: (batch, bins, frames, channels), in float32.
    """

    def __init__(
        self, time_stretch: float = 0.0, time_shift: float = 0.0, bin_stretch: float = 0.0, seed: int = 0, **kwargs
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.time_stretch, self.time_shift, self.bin_stretch, self.seed = time_stretch, time_shift, bin_stretch, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        x = ops.cast(inputs, "float32")
        if not training:
            return x
        drawn = keras.random.uniform((3, ops.shape(inputs)[0], 1), -1.0, 1.0, seed=self.generator)
        if self.time_stretch or self.time_shift:
            frames = _interpolation(x.shape[2], self.time_stretch * drawn[0], self.time_shift * drawn[1])
            x = ops.einsum("bnfc,bft->bntc", x, frames)
        if self.bin_stretch:
            bins = _interpolation(x.shape[1], self.bin_stretch * drawn[2], 0.0)
            x = ops.einsum("bnfc,bnm->bmfc", x, bins)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "time_stretch": self.time_stretch,
            "time_shift": self.time_shift,
            "bin_stretch": self.bin_stretch,
            "seed": self.seed,
        }


def _interpolation(size: int, log_scale, shift):
    """Weights (batch, from, to) that put place t exp(log_scale) + shift of an axis at t."""
    index = ops.arange(size, dtype="float32")
    place = ops.clip(index * ops.exp(log_scale) + shift, 0.0, size - 1.0)
    return ops.relu(1.0 - ops.abs(place[:, None, :] - index[None, :, None]))


def mu_law(waveform, classes: int = 256):
    """Codes, int32 0 to ``classes`` - 1, of a waveform in [-1, 1], companded by the mu-law with mu = classes - 1.

    ITU-T G.711's law with even steps, as WaveNet takes it (van den Oord et al., 2016, arXiv 1609.03499); what lies
    outside [-1, 1] is clipped. The middle of an odd number of classes is silence; of an even number two lie beside it.
    """
    x = ops.clip(ops.cast(waveform, "float32"), -1.0, 1.0)
    y = ops.sign(x) * ops.log1p((classes - 1) * ops.abs(x)) / math.log(classes)
    return ops.cast(ops.floor(0.5 * (y + 1.0) * (classes - 1) + 0.5), "int32")


def inverse_mu_law(codes, classes: int = 256):
    """Waveform in [-1, 1] of the codes of :func:`mu_law`, float32 of the same shape."""
    y = 2.0 * ops.cast(codes, "float32") / (classes - 1) - 1.0
    return ops.sign(y) * ops.expm1(math.log(classes) * ops.abs(y)) / (classes - 1)


@keras.saving.register_keras_serializable("spectrovae")
class Snake(keras.layers.Layer):
    """x + sin^2(a x) / a, an a for each channel (Ziyin, Hartwig and Ueda, 2020): lets a network go on periodically."""

    def build(self, input_shape):
        self.frequency = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="frequency")
        self.built = True

    def call(self, x):
        frequency = ops.cast(self.frequency, x.dtype)
        return x + ops.square(ops.sin(frequency * x)) / (frequency + 1e-4)


@keras.saving.register_keras_serializable("spectrovae")
class SoftSigmoid(keras.layers.Layer):
    """2 sigmoid(x + offset)^2.3 + 1e-7, of amplitudes, in float32: it falls off slowly, and never to 0.

    Args:
        offset: what is added to x.
    """

    def __init__(self, offset: float = 0.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.offset = offset

    def call(self, x):
        return 2.0 * ops.power(ops.sigmoid(ops.cast(x, "float32") + self.offset), 2.3) + 1e-7

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}
