"""Layers that Keras lacks, in ``keras.ops`` alone."""

import keras
from keras import ops

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
