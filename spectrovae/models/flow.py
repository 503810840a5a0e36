"""A flow of affine couplings (RealNVP): a prior of latent vectors with an exact likelihood and an exact inverse.

    latent -> whitened by the training set's mean and covariance -> shifted and scaled for its classes
           -> coupling, coupling, ... -> N(0, I)

A coupling shifts and scales one half of the numbers by what a small network makes of the other half and of the
conditions' embeddings (Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017); between couplings
the numbers are put in another, fixed order. The last layers start at zero, so that training starts from Gaussians: that
of the data's mean and covariance, or where there are conditions, those of the classes' own means and variances.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from spectrovae.errors import InputError
from spectrovae.models.priors import Prior
from spectrovae.sampling import normal

PRESETS = {
    "tiny": {"couplings": 2, "hidden": 16},
    "small": {"couplings": 6, "hidden": 128},
    "large": {"couplings": 10, "hidden": 384},
}
EMBEDDING = 16  # numbers that stand for a condition
LARGEST = 2.0  # of a log-scale: a coupling multiplies by at most e^2, so that an outlier cannot overflow


@keras.saving.register_keras_serializable(package="spectrovae")
class Flow(Prior):
    """See the module; other arguments as for :class:`Prior`.

    Args:
        preset: number of couplings and width of their networks.
        couplings, hidden: the same by number, where not None.
        dropout: in the couplings' networks, while training.
        condition_dropout: more than elsewhere, as one condition alone is what is mostly asked for.
    """

    def __init__(
        self,
        latent_shape,
        classes: int = 0,
        *,
        preset: str = "small",
        couplings: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.1,
        condition_dropout: float = 0.3,
        **kwargs,
    ):
        super().__init__(latent_shape, classes, condition_dropout=condition_dropout, **kwargs)
        if preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, received {preset!r}")
        if self.size < 2:
            raise InputError("a flow couples two halves: it needs latents of two numbers at least; use a mixture")
        self.preset, self.dropout = preset, dropout
        self.couplings = int(couplings or PRESETS[preset]["couplings"])
        self.hidden = int(hidden or PRESETS[preset]["hidden"])
        self.kept = self.size // 2
        self.moved = self.size - self.kept

        def held(name, value):
            weight = self.add_weight(name=name, shape=value.shape, initializer="zeros", trainable=False)
            weight.assign(value)
            return weight

        self.middle = held("middle", np.zeros(self.size, np.float32))
        self.whiten = held("whiten", np.eye(self.size, dtype=np.float32))
        self.colour = held("colour", np.eye(self.size, dtype=np.float32))
        self.log_volume = held("log_volume", np.zeros((), np.float32))
        self.embeddings, self.offsets, self.log_scales = {}, {}, {}
        for name, names in self.conditions.items():
            self.embeddings[name] = layers.Embedding(len(names) + 1, EMBEDDING, name=f"{name}_embedding")
            self.embeddings[name].build((None,))
            shape = (len(names) + 1, self.size)
            self.offsets[name] = self.add_weight(name=f"{name}_offset", shape=shape, initializer="zeros")
            self.log_scales[name] = self.add_weight(name=f"{name}_log_scale", shape=shape, initializer="zeros")
        self.embedding_layers = list(self.embeddings.values())
        random = np.random.default_rng(self.seed)
        self.orders = [random.permutation(self.size) for _ in range(self.couplings)]
        self.orders[0] = np.arange(self.size)
        self.networks = [self._network(index) for index in range(self.couplings)]
        self.built = True

    def _network(self, index: int) -> keras.Model:
        start = keras.initializers.GlorotUniform(seed=self.seed + 1000 * index)
        last = keras.initializers.GlorotUniform(seed=self.seed + 1000 * index + 1)
        inputs = keras.Input((self.kept + EMBEDDING * len(self.conditions),))
        x = layers.Dense(self.hidden, "silu", kernel_initializer=start)(inputs)
        x = layers.Dropout(self.dropout, seed=self.seed + index)(x)
        x = layers.Dense(self.hidden, "silu", kernel_initializer=last)(x)
        x = layers.Dropout(self.dropout, seed=self.seed + index + 1)(x)
        outputs = layers.Dense(2 * self.moved, kernel_initializer="zeros")(x)
        return keras.Model(inputs, outputs, name=f"coupling_{index}")

    def initialise(self, latents: np.ndarray, classes=None, ridge: float = 1e-4) -> None:
        """Whiten by the mean and the covariance of latents, and shift and scale by those of the classes.

        Args:
            latents: [shape=(count, *latent_shape)].
            classes: by condition [shape=(count,)]; None leaves the shifts and scales as they are.
            ridge: added to each variance, as a share of the mean variance.
        """
        x = np.asarray(latents, np.float64).reshape(-1, self.size)
        covariance = np.cov(x, rowvar=False)
        covariance[np.diag_indices(self.size)] += ridge * max(float(np.mean(np.diag(covariance))), 1e-12)
        factor = np.linalg.cholesky(covariance)
        self.middle.assign(x.mean(axis=0))
        self.colour.assign(factor.T)  # of rows
        self.whiten.assign(np.linalg.inv(factor).T)
        self.log_volume.assign(np.log(np.diag(factor)).sum())
        left = (x - x.mean(axis=0)) @ np.linalg.inv(factor).T
        for name in self.conditions if classes else ():
            offsets, scales = (np.zeros(self.offsets[name].shape) for _ in range(2))
            for place in range(len(self.conditions[name])):
                rows = np.flatnonzero(classes[name] == place)
                if len(rows) > 1:
                    offsets[place] = left[rows].mean(axis=0)
                    left[rows] -= offsets[place]
                    deviation = np.sqrt(np.mean(left[rows] ** 2, axis=0) + 1e-4)
                    scales[place] = np.log(np.clip(deviation, 0.3, 3.0))  # of few examples, and no more than a start
                    left[rows] /= np.exp(scales[place])
            self.offsets[name].assign(offsets)
            self.log_scales[name].assign(scales)

    def forward(self, latent, conditions, training=False):
        """Latents (batch, *latent_shape) -> (noise (batch, size), log-determinant of the Jacobian (batch,))."""
        x = ops.matmul(ops.reshape(ops.cast(latent, "float32"), (-1, self.size)) - self.middle, self.whiten)
        known = self._embedded(conditions)
        log_determinant = -self.log_volume
        for name in self.conditions:
            offset, log_scale = self._of_class(name, conditions)
            x = (x - offset) * ops.exp(-log_scale)
            log_determinant = log_determinant - ops.sum(log_scale, axis=1)
        for order, network in zip(self.orders, self.networks):
            x = ops.take(x, order, axis=1)
            kept, moved = x[:, : self.kept], x[:, self.kept :]
            scale, shift = self._affine(network, kept, known, training)
            x = ops.concatenate([kept, moved * ops.exp(scale) + shift], axis=1)
            log_determinant = log_determinant + ops.sum(scale, axis=1)
        return x, log_determinant

    def inverse(self, noise, conditions):
        """Noise (batch, size) -> latents (batch, *latent_shape): what :meth:`forward` undoes."""
        x, known = noise, self._embedded(conditions)
        for order, network in reversed(list(zip(self.orders, self.networks))):
            kept, moved = x[:, : self.kept], x[:, self.kept :]
            scale, shift = self._affine(network, kept, known, False)
            x = ops.concatenate([kept, (moved - shift) * ops.exp(-scale)], axis=1)
            x = ops.take(x, np.argsort(order), axis=1)
        for name in reversed(list(self.conditions)):
            offset, log_scale = self._of_class(name, conditions)
            x = x * ops.exp(log_scale) + offset
        return ops.reshape(ops.matmul(x, self.colour) + self.middle, (-1, *self.latent_shape))

    def nll(self, latent, conditions, training=False):
        noise, log_determinant = self.forward(latent, conditions, training)
        squares = 0.5 * ops.sum(ops.square(noise), axis=1) + 0.5 * self.size * math.log(2.0 * math.pi)
        return squares - log_determinant

    def draw(self, uniform, conditions, temperature=1.0, top_k=0, top_p=1.0, known=None, mask=None):
        """See :meth:`Prior.draw`. The temperature is the deviation of the noise. Numbers that are kept do not change
        what the others become."""
        temperature = ops.reshape(ops.convert_to_tensor(temperature, dtype="float32"), (-1, 1))
        drawn = self.inverse(temperature * normal(uniform), conditions)
        return drawn if mask is None else ops.where(mask, known, drawn)

    def _embedded(self, conditions):
        return [self.embeddings[name](ops.cast(conditions[name], "int32")) for name in self.conditions]

    def _of_class(self, name, conditions):
        index = ops.cast(conditions[name], "int32")
        return ops.take(self.offsets[name], index, axis=0), ops.take(self.log_scales[name], index, axis=0)

    def _affine(self, network, kept, known, training):
        outputs = network(ops.concatenate([kept, *known], axis=1), training=training)
        return LARGEST * ops.tanh(outputs[:, : self.moved] / LARGEST), outputs[:, self.moved :]

    def get_config(self):
        own = {"preset": self.preset, "couplings": self.couplings, "hidden": self.hidden, "dropout": self.dropout}
        return {**super().get_config(), **own}
