"""WaveNet (van den Oord et al., 2016, arXiv 1609.03499): a sequence of codes, by dilated causal convolutions.

The codes of a map are laid out in causal order: frame, height, stage. The codes of a waveform are the latent (length,);
see :func:`spectrovae.layers.mu_law`.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spectrovae.errors import InputError
from spectrovae.models.autoregressive import CodePrior, check_preset, dense, embedding, gated, shift, write
from spectrovae.models.priors import Prior
from spectrovae.sampling import normal

EDGE = 1e-6  # of a distribution, at either end: numbers further out count as lying there

# ``small`` sees 256 codes back, a map of 16 x 8 and more. A waveform wants dilations in several rounds to 512.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "skip": 32, "dilations": (1, 2, 4)},
    "small": {"width": 64, "skip": 128, "dilations": (1, 2, 4, 8, 16, 32, 64, 128)},
    "base": {"width": 128, "skip": 256, "dilations": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) * 2},
}


class DilatedGate(keras.layers.Layer):
    """One gated convolution over a step and ``kernel - 1`` before it, ``dilation`` apart, with residual and skip.

    Args:
        width: of what comes and goes.
        skip: of what goes to the output.
        conditioned: whether a context is given, (..., width).
        last: whether nothing follows but the output, so that a residual path would be of no use.
    """

    def __init__(
        self, width: int, skip: int, kernel: int, dilation: int, dropout: float, conditioned: bool, last: bool, **kwargs
    ):
        super().__init__(**kwargs)
        self.width, self.kernel, self.dilation = width, kernel, dilation
        self.taps = dense(kernel * width, 2 * width)
        self.condition = dense(width, 2 * width, use_bias=False) if conditioned else None
        self.dropout = keras.layers.Dropout(dropout)
        self.residual: Any = None if last else dense(width, width)
        self.skip = dense(width, skip)

    def build(self, input_shape=None):
        self.built = True

    def call(self, x, context=None, training=False):
        """(batch, steps, width) -> the same, and (batch, steps, skip), of all steps at once."""
        taps = [shift(x, n * self.dilation, axis=1) for n in reversed(range(1, self.kernel))]
        return self._gate([*taps, x], None if context is None else context[:, None], training)

    def step(self, x, memory, place, context=None):
        """The same of one step (batch, width); ``memory`` is a ring of the inputs that are still needed.

        Fast WaveNet (Paine et al., 2016, arXiv 1611.09482).
        """
        slots = (self.kernel - 1) * self.dilation
        # The oldest lies where the newest goes; a lap is added so that no remainder is of a negative number.
        at = [ops.mod(place + slots - n * self.dilation, slots) for n in reversed(range(1, self.kernel))]
        taps = [ops.take(memory, index, axis=0) for index in at]
        out, skip = self._gate([*taps, ops.cast(x, memory.dtype)], context, False)
        return out, skip, write(memory, at[0], x)

    def memory(self, batch):
        return ops.zeros(((self.kernel - 1) * self.dilation, batch, self.width), self.compute_dtype)

    def _gate(self, taps, context, training):
        y = self.taps(ops.concatenate(taps, axis=-1))
        if self.condition is not None:
            y = y + self.condition(context)
        y = self.dropout(gated(y), training=training)
        return taps[-1] if self.residual is None else taps[-1] + self.residual(y), self.skip(y)


@keras.saving.register_keras_serializable("spectrovae")
class WaveNet(CodePrior):
    """Codes one after another, each from those within the receptive field before it.

    A map has learned vectors of its frames and of the places in a frame, as its size is fixed; a sequence (length,) has
    none. What comes before the beginning is zeros.

    Args:
        latent_shape: (height, width), (height, width, stages) or (length,).
        classes: number of codes.
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU, waveforms).
        dilations: of the layers, in steps of the sequence; by default the preset's.
        kernel: steps that a layer sees, itself included; 2 or 3.
        dropout: of what a layer adds, in training.
        conditions, condition_dropout, seed: see :class:`spectrovae.models.priors.Prior`.
    """

    ranks = (1, 2, 3)

    def __init__(
        self,
        latent_shape,
        classes: int,
        *,
        preset: str = "small",
        dilations: Sequence[int] | None = None,
        kernel: int = 2,
        dropout: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        shape = check_preset(preset, PRESETS)
        width, skip = shape["width"], shape["skip"]
        super().__init__(latent_shape, classes, width=width, dropout=dropout, seed=seed, **kwargs)
        self.preset, self.kernel = preset, kernel
        self.dilations = tuple(shape["dilations"] if dilations is None else map(int, dilations))
        if kernel not in (2, 3):
            raise InputError(f"kernel must be 2 or 3, received {kernel}")
        if not self.dilations or min(self.dilations) < 1:
            raise InputError(f"dilations must be one or more positive numbers, received {dilations}")
        is_map = len(self.latent_shape) > 1
        self.frame_vectors: Any = embedding(self.frames, width) if is_map else None
        self.place_vectors: Any = embedding(self.bins * self.stages, width) if is_map else None
        last = len(self.dilations) - 1
        given = bool(self.conditions)
        self.gates = [
            DilatedGate(width, skip, kernel, dilation, dropout, given, index == last, name=f"gate_{index}")
            for index, dilation in enumerate(self.dilations)
        ]
        self.hidden = [dense(skip, skip, activation="relu") for _ in range(self.stages)]
        self.heads = [dense(skip, self.classes) for _ in range(self.stages)]

    @property
    def receptive_field(self) -> int:
        """Codes before one that it may depend on."""
        return 1 + (self.kernel - 1) * sum(self.dilations)

    def sequence_logits(self, codes, context, training=False):
        stages = ops.arange(self.size, dtype="int32") % self.stages
        x = shift(self.code_vectors(codes + stages * self.classes), 1, axis=1)
        if self.frame_vectors is not None:
            x = x + self._position(ops.arange(self.size, dtype="int32"))
        total: Any = 0.0
        for gate in self.gates:
            x, skip = gate(x, context, training=training)
            total = total + skip
        features = ops.reshape(ops.relu(total), (-1, self.size // self.stages, self.stages, total.shape[-1]))
        found = [self._head(features[:, :, stage], stage) for stage in range(self.stages)]
        return ops.reshape(ops.stack(found, axis=2), (-1, self.size, self.classes))

    def walk(self, pick, batch, context, kept=()):
        def position(index, codes, kept, x, memories):
            for stage in range(self.stages):
                place = index * self.stages + stage
                if self.frame_vectors is not None:
                    x = x + self._position(place)
                total, renewed = 0.0, []
                for gate, memory in zip(self.gates, memories):
                    x, skip, memory = gate.step(x, memory, place, context)
                    total = total + skip
                    renewed.append(memory)
                memories = tuple(renewed)
                logits = self._head(ops.relu(total), stage)
                code, codes, kept = self.record(codes, kept, place, logits, pick)
                x = self.code_vectors(code + stage * self.classes)
            return index + 1, codes, kept, x, memories

        start = (
            ops.convert_to_tensor(0, "int32"),
            ops.zeros((self.size, batch), "int32"),
            kept,
            ops.zeros((batch, self.width), self.compute_dtype),
            tuple(gate.memory(batch) for gate in self.gates),
        )
        positions = self.size // self.stages
        _, codes, kept, _, _ = ops.while_loop(lambda index, *_: index < positions, position, start)
        return codes, kept

    def _position(self, place):
        per_frame = self.bins * self.stages
        return self.frame_vectors(place // per_frame) + self.place_vectors(ops.mod(place, per_frame))

    def _head(self, features, stage):
        return self.heads[stage](self.hidden[stage](features))

    def get_config(self):
        return {
            **super().get_config(),
            "preset": self.preset,
            "dilations": list(self.dilations),
            "kernel": self.kernel,
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable("spectrovae")
class LatentWaveNet(Prior):
    """A WaveNet over sequences of latent vectors, such as RAVE's: each number becomes one of a few levels, its codes.

        latent frames -> principal directions -> the first of them quantised -> WaveNet over the levels, time by time
                                              -> the others: independent normal numbers

    Borders between levels are quantiles of a direction's normal distribution, and inside a level numbers keep that
    distribution's shape. So the prior is a density, whose nats compare with those of any other. Call
    :meth:`initialise` with the training latents before training.

    Args:
        latent_shape: (frames, dimensions).
        levels: that a number is one of.
        directions: that are quantised, of greatest variance; at most as many as dimensions.
        preset, dropout: of the WaveNet; others as for :class:`spectrovae.models.priors.Prior`.
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
        self, uniform, conditions, temperature=1.0, top_k=0, top_p=1.0, known=None, mask=None, guidance: Any = 1.0
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
