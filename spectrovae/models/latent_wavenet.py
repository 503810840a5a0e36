"""A WaveNet over sequences of latent vectors: each number becomes one of a few levels, and these are its codes.

    latent frames -> principal directions -> the first of them quantised, time by time -> WaveNet over the levels
                                          -> the others: independent normal numbers

Borders between levels are quantiles of a direction's normal distribution, and inside a level numbers keep that
distribution's shape. So the prior is a density, whose nats compare with those of any other.
"""

import math

import keras
import numpy as np
from keras import ops

from spectrovae.errors import InputError
from spectrovae.models.priors import Prior
from spectrovae.models.wavenet import WaveNet
from spectrovae.sampling import normal

EDGE = 1e-6  # of the distribution, at either end: what lies further out counts as lying there


@keras.saving.register_keras_serializable("spectrovae")
class LatentWaveNet(Prior):
    """See the module; other arguments as for :class:`spectrovae.models.wavenet.WaveNet`.

    Call :meth:`initialise` with the training latents before training.

    Args:
        latent_shape: (frames, dimensions).
        levels: that a number is one of.
        directions: that are quantised, of greatest variance; at most as many as dimensions.
    """

    draws_codes = True
    ranks = (2,)

    def __init__(
        self,
        latent_shape,
        classes: int = 0,
        *,
        levels: int = 32,
        directions: int = 16,
        preset: str = "small",
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(latent_shape, classes, **kwargs)
        if levels < 2 or directions < 1:
            raise InputError(f"levels must be at least 2 and directions 1, received {levels} and {directions}")
        self.frames, self.dimensions = self.latent_shape
        self.levels, self.directions = int(levels), min(int(directions), self.dimensions)
        self.preset, self.dropout = preset, dropout
        # Conditions are dropped here, before they get there.
        self.wavenet = WaveNet(
            (1, self.frames, self.directions), self.levels, preset=preset, dropout=dropout, seed=self.seed,
            conditions=self.conditions, condition_dropout=0.0,
        )  # fmt: skip

        def held(name, value):
            weight = self.add_weight(name=name, shape=value.shape, initializer="zeros", trainable=False)
            weight.assign(value)
            return weight

        self.middle = held("middle", np.zeros(self.dimensions, np.float32))
        self.axes = held("axes", np.eye(self.dimensions, dtype=np.float32))  # orthonormal rows
        self.spread = held("spread", np.ones(self.dimensions, np.float32))  # along each
        self.built = True

    @property
    def noise_shape(self):
        """A level's, then its place within, for each number that is quantised; one for each other."""
        return (self.frames * (self.dimensions + self.directions),)

    def initialise(self, latents: np.ndarray, classes=None) -> None:
        """Take the directions and their deviations from latents [shape=(count, frames, dimensions)]."""
        x = np.asarray(latents, np.float64).reshape(-1, self.dimensions)
        self.middle.assign(x.mean(axis=0))
        variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(x, rowvar=False, bias=True)))
        self.axes.assign(axes.T[::-1])
        self.spread.assign(np.sqrt(np.maximum(variances[::-1], 1e-12)))

    def nll(self, latent, conditions, training=False):
        units = self._units(latent)
        choice = self.wavenet.nll(self._codes(units), conditions, training)
        # A level of probability p has density p * levels times the normal one, everywhere in it.
        shape = 0.5 * ops.square(units) + 0.5 * math.log(2.0 * math.pi) + ops.log(self.spread)
        return choice + ops.sum(shape, axis=(1, 2)) - self.frames * self.directions * math.log(self.levels)

    def draw(
        self, uniform, conditions, temperature=1.0, top_k=0, top_p=1.0, known=None, mask=None, guidance: float = 1.0
    ):
        """As in the base, whose ``top_k`` and ``top_p`` are of levels; ``guidance`` as for ``CodePrior.draw``."""
        kept = {}
        if mask is not None:  # levels that follow see the frames that are kept whole
            mask = ops.cast(mask, "bool")
            whole = ops.broadcast_to(
                ops.all(mask, axis=-1)[:, None, :, None], (ops.shape(mask)[0], 1, self.frames, self.directions)
            )
            kept = {"known": self._codes(self._units(known)), "mask": whole}
        quantised, rest = self.frames * self.directions, self.frames * (self.dimensions - self.directions)
        uniform = ops.cast(uniform, "float32")
        heat = ops.reshape(ops.convert_to_tensor(temperature, dtype="float32"), (-1, 1, 1))
        codes = self.wavenet.draw(
            uniform[:, :quantised], conditions, temperature, top_k, top_p, guidance=guidance, **kept
        )
        codes = ops.reshape(ops.cast(codes, "float32"), (-1, self.frames, self.directions))
        within = ops.reshape(uniform[:, quantised : 2 * quantised], (-1, self.frames, self.directions))
        # Greedy draws take a level's middle.
        within = ops.where(heat > 0.0, within, 0.5)
        first = normal(ops.clip((codes + within) / self.levels, EDGE, 1.0 - EDGE))
        others = ops.reshape(normal(uniform[:, 2 * quantised :]), (-1, self.frames, self.dimensions - self.directions))
        units = ops.concatenate([first, heat * others], axis=-1) if rest else first
        drawn = ops.matmul(units * self.spread, self.axes) + self.middle
        return drawn if mask is None else ops.where(mask, ops.cast(known, drawn.dtype), drawn)

    def _units(self, latent):
        """Latents -> their coordinates along the directions, in deviations [shape=(batch, frames, dimensions)]."""
        return ops.matmul(ops.cast(latent, "float32") - self.middle, ops.transpose(self.axes)) / self.spread

    def _codes(self, units):
        """Levels [shape=(batch, 1, frames, directions)] of coordinates."""
        inside = ops.clip(_distribution(units[..., : self.directions]), EDGE, 1.0 - EDGE)
        return ops.cast(ops.floor(inside * self.levels), "int32")[:, None]

    def get_config(self):
        names = ("levels", "directions", "preset", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _distribution(x):
    """The normal distribution function."""
    return 0.5 * (1.0 + ops.erf(x / math.sqrt(2.0)))
