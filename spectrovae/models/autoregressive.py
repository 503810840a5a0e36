"""What the autoregressive priors of codes share: the order of the codes, their likelihood, and drawing them one by one.

The order is time-major: all codes of a frame, over height (low bins first) and then stages, before the next frame. So
what stands at the beginning of a segment can be kept, and continued.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from spectrovae import sampling
from spectrovae.errors import InputError
from spectrovae.models.priors import Prior


def dense(inputs: int, units: int, **options) -> keras.layers.Dense:
    """A dense layer over the last axis, with its weights."""
    layer = keras.layers.Dense(units, **options)
    layer.build((None, inputs))
    return layer


def embedding(entries: int, width: int) -> keras.layers.Embedding:
    """A table of vectors, with its weights."""
    spread = keras.initializers.RandomNormal(stddev=width**-0.5)
    layer = keras.layers.Embedding(entries, width, embeddings_initializer=spread)
    layer.build()
    return layer


def gated(x):
    """tanh(a) sigmoid(b) of the halves of the last axis (van den Oord et al., 2016, arXiv 1606.05328)."""
    a, b = ops.split(x, 2, axis=-1)
    return ops.tanh(a) * ops.sigmoid(b)


def shift(x, places: int, axis: int):
    """Zeros put before an axis, and as many of its last places left out."""
    places = min(places, x.shape[axis])
    padding = [(places, 0) if n == axis else (0, 0) for n in range(len(x.shape))]
    kept = [slice(None)] * axis + [slice(0, x.shape[axis] - places)]
    return ops.pad(x[tuple(kept)], padding)


def write(buffer, index, value):
    """A buffer (places, batch, ...) with ``value`` (batch, ...) at a place; costs that place alone."""
    return ops.scatter_update(buffer, ops.reshape(index, (1, 1)), ops.cast(value, buffer.dtype)[None])


class CodePrior(Prior):
    """A prior that predicts each code from those before it; kinds override ``sequence_logits`` and ``walk``.

    Args:
        latent_shape: (height, width) or (height, width, stages) of codes, time along the width; (length,) too where
            the kind takes it.
        classes: number of codes, two at least.
        width: of the embeddings of codes and conditions.
        dropout: of what a layer adds, in training.
    """

    codes = draws_codes = True
    ranks: tuple[int, ...] = (2, 3)

    def __init__(self, latent_shape, classes: int, *, width: int, dropout: float, **kwargs):
        super().__init__(latent_shape, classes, **kwargs)
        if not 0.0 <= dropout < 1.0:
            raise InputError(f"dropout must be at least 0 and less than 1, received {dropout}")
        self.width, self.dropout = width, dropout
        height, frames, stages = (*self.latent_shape, 1)[:3] if len(self.latent_shape) > 1 else (1, self.size, 1)
        self.frames, self.bins, self.stages = frames, height, stages
        self.code_vectors = embedding(stages * self.classes, width)
        self.condition_vectors = [embedding(len(names) + 1, width) for names in self.conditions.values()]

    def sequence_logits(self, codes, context, training: bool = False):
        """Logits (batch, size, classes) of codes (batch, size), both in causal order, in one pass."""
        raise NotImplementedError

    def walk(self, pick, batch, context, kept=()):
        """Code after code by the cached path.

        Args:
            pick: (place in the order, logits (batch, classes)) -> codes, int32 (batch,).
            batch: rows.
            context: of :meth:`context`.
            kept: (buffer (size, batch, classes),) to keep the logits in, or none.

        Returns:
            Codes (size, batch) in causal order, and the buffers of ``kept``.
        """
        raise NotImplementedError

    def logits(self, latent, conditions: Mapping[str, Any] | None = None, training: bool = False):
        """Unnormalised log-probabilities of each code given those before it [shape=(batch, *latent_shape, classes)]."""
        codes = self.to_sequence(latent)
        found = self.sequence_logits(codes, self.context(conditions, ops.shape(codes)[0]), training)
        return self.from_sequence(ops.cast(found, "float32"))

    def cached_logits(self, latent, conditions: Mapping[str, Any] | None = None):
        """What :meth:`logits` gives, code by code on the path that draws; to compare the two."""
        codes = ops.transpose(self.to_sequence(latent))
        batch = ops.shape(codes)[1]
        buffer = ops.zeros((self.size, batch, self.classes), "float32")
        _, (found,) = self.walk(
            lambda place, _: ops.take(codes, place, axis=0), batch, self.context(conditions, batch), (buffer,)
        )
        return self.from_sequence(ops.transpose(found, (1, 0, 2)))

    def nll(self, latent, conditions, training=False):
        latent = ops.cast(latent, "int32")
        logits = self.logits(latent, conditions, training)
        nats = keras.losses.sparse_categorical_crossentropy(latent, logits, from_logits=True)
        return ops.sum(ops.reshape(nats, (-1, self.size)), axis=-1)

    def draw(
        self, uniform, conditions, temperature=1.0, top_k=0, top_p=1.0, known=None, mask=None, guidance: Any = 1.0
    ):
        """As in the base.

        Args:
            guidance: weight of the conditions, a number or a scalar tensor: logits are those of "none given" plus
                ``guidance`` times what the conditions change them by (Ho and Salimans, 2022, arXiv 2207.12598). 1 is
                the distribution that was learned; above 1 is more what was asked for, less varied, and takes twice the
                work.
        """
        if (known is None) != (mask is None):
            raise InputError("known and mask come together: codes to keep, and where to keep them")
        uniform = ops.transpose(ops.reshape(ops.cast(uniform, "float32"), (-1, self.size)))
        batch = ops.shape(uniform)[1]
        if mask is not None:
            known, mask = (ops.transpose(self.to_sequence(x)) for x in (known, ops.cast(mask, "int32")))

        context = self.context(conditions, batch)
        guided = context is not None and not (isinstance(guidance, float | int) and guidance == 1.0)
        if guided:
            context = ops.concatenate([context, self.context(None, batch)])

        def pick(place, logits):
            if guided:
                given, free = ops.split(logits, 2)
                logits = free + ops.cast(guidance, free.dtype) * (given - free)
            code = chosen(place, logits)
            return ops.concatenate([code, code]) if guided else code

        def chosen(place, logits):
            noise = ops.take(uniform, place, axis=0)
            code = sampling.choose(logits, noise, temperature, top_k, top_p)
            if mask is None:
                return code
            return ops.where(ops.take(mask, place, axis=0) > 0, ops.take(known, place, axis=0), code)

        codes, _ = self.walk(pick, 2 * batch if guided else batch, context)
        return self.from_sequence(ops.transpose(codes[:, :batch]))

    def context(self, conditions: Mapping[str, Any] | None, batch):
        """Vectors of the conditions, summed [shape=(batch, width)]; one left out is "none given". None without any."""
        total = None
        for name, vectors in zip(self.conditions, self.condition_vectors):
            index = (conditions or {}).get(name)
            if index is None:
                index = ops.full((batch,), self.none_given(name), dtype="int32")
            vector = vectors(ops.cast(index, "int32"))
            total = vector if total is None else total + vector
        return total

    def record(self, codes, kept, place, logits, pick):
        """One code picked and written down; returns (code, codes, kept)."""
        logits = ops.cast(logits, "float32")
        code = ops.reshape(ops.cast(pick(place, logits), "int32"), ops.shape(codes)[1:])
        return code, write(codes, place, code), tuple(write(buffer, place, logits) for buffer in kept)

    def to_sequence(self, latent):
        """(batch, *latent_shape) -> int32 (batch, size) in causal order."""
        latent = ops.cast(latent, "int32")
        if len(self.latent_shape) > 1:
            latent = ops.transpose(latent, (0, 2, 1, *range(3, len(self.latent_shape) + 1)))
        return ops.reshape(latent, (-1, self.size))

    def from_sequence(self, x):
        """(batch, size, ...) in causal order -> (batch, *latent_shape, ...)."""
        rest = tuple(x.shape[2:])
        if len(self.latent_shape) == 1:
            return x
        x = ops.reshape(x, (-1, self.frames, self.bins, *self.latent_shape[2:], *rest))
        return ops.transpose(x, (0, 2, 1, *range(3, len(x.shape))))


def check_preset(preset: str, presets: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers of a preset."""
    if preset not in presets:
        raise InputError(f"preset must be one of {', '.join(presets)}, received {preset!r}")
    return presets[preset]
