"""Mixture of Gaussians: a prior of latent vectors that needs no gradient.

    p(x | classes) = sum_k p(k | classes) N(x; m_k, L_k L_k'),   p(k | classes) ~ p(k) prod_c p(class_c | k)

Components know the classes they were seen with, so that a condition moves the mixing weights alone, and "none given" is
the same mixture with its own weights (Dempster, Laird and Rubin, 1977, for the fit; ``training.mixture`` does it).
"""

import math

import keras
import numpy as np
from keras import ops

from spectrovae.errors import InputError
from spectrovae.models.priors import Prior
from spectrovae.sampling import choose, normal

PRESETS = {"tiny": 2, "small": 16, "large": 64}
COVARIANCES = ("full", "diagonal")
FAINT = 1e-6  # probability of a class where a component has never seen it


@keras.saving.register_keras_serializable(package="spectrovae")
class GaussianMixture(Prior):
    """See the module; other arguments as for :class:`Prior`.

    Its weights are set by :meth:`set_mixture`, and not by training; until then it is N(0, I).

    Args:
        preset: number of components, where ``components`` is None.
        components: number of components.
        covariance: ``"full"`` or ``"diagonal"``.
    """

    def __init__(
        self,
        latent_shape,
        classes: int = 0,
        *,
        preset: str = "small",
        components: int | None = None,
        covariance: str = "full",
        **kwargs,
    ):
        super().__init__(latent_shape, classes, **kwargs)
        if preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, received {preset!r}")
        if covariance not in COVARIANCES:
            raise InputError(f"covariance must be one of {', '.join(COVARIANCES)}, received {covariance!r}")
        self.preset, self.covariance = preset, covariance
        self.components = PRESETS[preset] if components is None else int(components)
        if self.components < 1:
            raise InputError(f"a mixture needs one component at least, received {components}")
        count, size = self.components, self.size

        def held(name, shape, initializer="zeros"):
            return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

        self.log_weights = held("log_weights", (count,))  # need not sum to one
        self.means = held("means", (count, size))
        shape = (count, size, size) if covariance == "full" else (count, size)
        self.factors = held("factors", shape, "ones")
        if covariance == "full":
            self.factors.assign(np.tile(np.eye(size, dtype=np.float32), (count, 1, 1)))
        # Log-probability of each class given the component; the last class, "none given", says nothing.
        self.tables = {name: held(f"{name}_table", (len(names) + 1, count)) for name, names in self.conditions.items()}
        self.built = True

    def set_mixture(self, weights, means, covariances, tables=None) -> None:
        """Set the distribution.

        Args:
            weights: probabilities of the components [shape=(components,)].
            means: [shape=(components, size)].
            covariances: [shape=(components, size, size)], or the variances (components, size) where diagonal.
            tables: probability of each class given the component, by condition [shape=(names, components)].

        Raises:
            InputError: another shape, or a covariance that is not positive definite.
        """
        shapes = [tuple(np.shape(value)) for value in (weights, means, covariances)]
        expected = [tuple(weight.shape) for weight in (self.log_weights, self.means, self.factors)]
        if shapes != expected:
            raise InputError(f"the mixture takes weights, means and covariances of {expected}, received {shapes}")
        try:
            covariances = np.asarray(covariances, np.float64)
            if self.covariance == "full":
                factors = np.linalg.cholesky(covariances)
                scales = np.diagonal(factors, axis1=1, axis2=2)
            else:
                scales = factors = np.sqrt(np.maximum(covariances, 0.0))
            # As the weights will hold them: a deviation that float32 rounds to 0 divides by 0.
            if not (np.isfinite(factors).all() and np.all(scales > 1e-30)):
                raise ValueError("a variance is not a positive number")
        except ValueError as error:
            raise InputError(f"the mixture's covariances are not positive definite ({error}); add a ridge") from error
        self.log_weights.assign(np.log(np.maximum(np.asarray(weights, np.float64), 1e-30)))
        self.means.assign(means)
        self.factors.assign(factors)
        for name, table in (tables or {}).items():
            logs = np.log(np.maximum(np.asarray(table, np.float64), FAINT))
            self.tables[name].assign(np.concatenate([logs, np.zeros((1, self.components))]))

    def mixing(self, conditions, rows):
        """log p(k | classes) [shape=(rows, components)]."""
        logits = ops.broadcast_to(self.log_weights, (rows, self.components))
        for name in self.conditions:
            logits = logits + ops.take(self.tables[name], ops.cast(conditions[name], "int32"), axis=0)
        return ops.log_softmax(logits, axis=-1)

    def nll(self, latent, conditions, training=False):
        x = ops.reshape(ops.cast(latent, "float32"), (-1, self.size))
        away = ops.expand_dims(ops.transpose(x), 0) - ops.expand_dims(self.means, -1)  # (components, size, batch)
        if self.covariance == "full":
            scales = ops.diagonal(self.factors, axis1=1, axis2=2)
            white = ops.solve_triangular(self.factors, away, lower=True)
        else:
            scales = self.factors
            white = away / ops.expand_dims(scales, -1)
        constant = ops.sum(ops.log(scales), axis=1) + 0.5 * self.size * math.log(2.0 * math.pi)
        density = -0.5 * ops.sum(ops.square(white), axis=1) - ops.expand_dims(constant, -1)
        return -ops.logsumexp(ops.transpose(density) + self.mixing(conditions, ops.shape(x)[0]), axis=-1)

    @property
    def noise_shape(self):
        return (self.size + 1,)  # the first chooses the component

    def draw(self, uniform, conditions, temperature=1.0, top_k=0, top_p=1.0, known=None, mask=None):
        """See :meth:`Prior.draw`. The temperature scales deviations within a component; at 0 the likeliest component's
        mean. Numbers that are kept do not change what the others become."""
        rows = ops.shape(uniform)[0]
        temperature = ops.reshape(ops.convert_to_tensor(temperature, dtype="float32"), (-1, 1))
        temperature = ops.broadcast_to(temperature, (rows, 1))
        greedy = ops.cast(temperature > 0.0, "float32")[:, 0]
        component = choose(self.mixing(conditions, rows), uniform[:, 0], greedy)
        noise = temperature * normal(uniform[:, 1:])
        factor = ops.take(self.factors, component, axis=0)
        if self.covariance == "full":
            away = ops.squeeze(ops.matmul(factor, ops.expand_dims(noise, -1)), -1)
        else:
            away = factor * noise
        drawn = ops.reshape(ops.take(self.means, component, axis=0) + away, (-1, *self.latent_shape))
        return drawn if mask is None else ops.where(mask, known, drawn)

    def get_config(self):
        own = {"preset": self.preset, "components": self.components, "covariance": self.covariance}
        return {**super().get_config(), **own}
