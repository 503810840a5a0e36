"""Quantisers: from encodings to integer codes and back, in ``keras.ops`` alone.

A quantiser is a layer of the encoder: called, it gives codes. Its ``codebook`` is a layer of its own, which the decoder
holds too: called with codes, it gives their vectors. What they share:

- ``quantise(encodings) -> codes``, int32; ``lookup(codes) -> vectors``, float32; ``nearest(vectors) -> codes``;
- ``codebook_size``, ``stages`` and ``bits``, those of one position over all its stages;
- ``estimate(encodings, training) -> Estimate``, the differentiable path of training.

All compute in float32 under any precision policy.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from spectrovae.errors import InputError

_package = "spectrovae"
GRADIENTS = ("rotation", "straight_through")
COMMITMENTS = ("fixed", "adapted")
EPSILON = 1e-5  # of the Laplace smoothing of a code's use
SHORT = 0.05
"""Length below which a vector has no direction: digital silence may be encoded as zeros, and a gradient through a
length of next to nothing would be a million times the others'."""


class Estimate(NamedTuple):
    """What training sees of a quantiser.

    Attributes:
        vectors: quantised encodings, with a gradient to what came in, same shape.
        codes: int32 (..., ) or (..., stages).
        commitment: nats per example [shape=(batch,)]: encodings under a Gaussian round their codes' vectors.
        unused: nats per example [shape=(batch,)]: capacity that the codes leave unused, 0 where all are used alike.
    """

    vectors: Any
    codes: Any
    commitment: Any
    unused: Any


# What needs no state


def squared_distances(points, centres):
    """|point - centre|^2 of every pair, [shape=(points, centres)], by one matrix product."""
    product = ops.matmul(points, ops.transpose(centres))
    squares = ops.sum(ops.square(points), axis=-1, keepdims=True) + ops.sum(ops.square(centres), axis=-1)
    return ops.maximum(squares - 2.0 * product, 0.0)


def nearest_index(distances):
    """Index of the smallest along the last axis.

    Not ``ops.argmin``: on TensorFlow it looks at the bits of floats, which neither ONNX nor LiteRT can.
    """
    return ops.squeeze(ops.top_k(-distances, k=1)[1], axis=-1)


def unit_length(x):
    """Vectors along the last dimension scaled to length 1; those shorter than ``SHORT`` by 1 / ``SHORT``."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), SHORT**2))


def straight_through(encodings, vectors):
    """``vectors``, with the gradient of ``encodings`` (Bengio, Leonard and Courville, 2013)."""
    return encodings + ops.stop_gradient(vectors - encodings)


def rotation_trick(encodings, vectors):
    """``vectors``, as a rotation and scaling of ``encodings`` that the gradient takes for constant.

    With unit vectors u along e and q along v, and w along u + q: (e - 2 (e.w) w + 2 (e.u) q) |v| / |e| (Fifty et al.,
    2024). Angles between gradient and encoding are carried over to the code's vector. Where e is shorter than ``SHORT``
    times v, or than 1e-6, the gradient passes straight through: there is no angle, and the scale would have no bound.
    """
    e, v = ops.stop_gradient(encodings), ops.stop_gradient(vectors)
    lengths = [ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True)) for x in (e, v)]
    u, q = (x / ops.maximum(length, 1e-12) for x, length in zip((e, v), lengths))
    w = u + q
    w = w / ops.maximum(ops.sqrt(ops.sum(ops.square(w), axis=-1, keepdims=True)), 1e-12)
    short = lengths[0] <= ops.maximum(SHORT * lengths[1], 1e-6)
    scale = lengths[1] / ops.where(short, 1.0, lengths[0])

    def along(direction):
        return ops.sum(encodings * direction, axis=-1, keepdims=True)

    rotated = (encodings - 2.0 * along(w) * w + 2.0 * along(u) * q) * scale
    return ops.where(short, straight_through(encodings, vectors), rotated)


def draw(points, weights, uniform):
    """Draw points with probability in proportion to ``weights``: one for each number of ``uniform`` in [0, 1)."""
    cumulated = ops.cumsum(weights + 1e-12)
    index = ops.searchsorted(cumulated, uniform * cumulated[-1], side="right")
    return ops.take(points, ops.minimum(index, ops.shape(points)[0] - 1), axis=0)


def tally(points, index, count: int):
    """Of each of ``count`` codes: how many points chose it, and their sum."""
    member = ops.one_hot(index, count, dtype="float32")
    return ops.sum(member, axis=0), ops.matmul(ops.transpose(member), points)


def kmeans(points, uniform, spherical: bool):
    """Centres of points, after Lloyd (1982) [shape=(count, dim)], with the points of each and their sums.

    Args:
        points: [shape=(any, dim)].
        uniform: random numbers in [0, 1) [shape=(iterations, count)]: the first row draws the start, the others new
            places for centres that have no points, each far from every centre as a rule (as k-means++ does).
        spherical: keep centres at length 1.
    """
    centres = draw(points, ops.ones_like(points[:, 0]), uniform[0])
    for row in range(1, uniform.shape[0]):
        distances = squared_distances(points, centres)
        count, total = tally(points, ops.argmin(distances, axis=-1), centres.shape[0])
        moved = total / ops.maximum(count, 1.0)[:, None]
        far = draw(points, ops.min(distances, axis=-1), uniform[row])
        centres = ops.where(count[:, None] > 0.0, moved, far)
        centres = unit_length(centres) if spherical else centres
    index = ops.argmin(squared_distances(points, centres), axis=-1)
    return (centres, *tally(points, index, centres.shape[0]))


# Layers


class Quantiser(keras.layers.Layer):
    """What every quantiser offers; a subclass sets ``codebook``, ``codebook_size`` and ``stages``."""

    codebook: keras.layers.Layer
    codebook_size: int
    stages: int

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, input_shape):
        self.codebook.built = self.built = True  # weights are made with the layer, which knows their shapes

    @property
    def bits(self) -> float:
        """Bits of one position's codes, all of them taken for equally likely."""
        return self.stages * math.log2(self.codebook_size)

    def call(self, inputs):
        return self.quantise(inputs)

    def lookup(self, codes):
        """Vectors of codes."""
        return self.codebook(codes)

    def quantise(self, encodings):
        """Codes of encodings."""
        return self.nearest(self.prepare(encodings))

    def prepare(self, encodings):
        """Encodings, as they are when they come, in the space of the codes' vectors."""
        raise NotImplementedError

    def nearest(self, vectors):
        """Codes of vectors, such as :meth:`lookup` returns or what lies between them."""
        raise NotImplementedError

    def estimate(self, encodings, training: bool) -> Estimate:
        """Quantised encodings that a gradient passes, and the losses beside; in training the codebook learns too."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(_package)
class Codebook(keras.layers.Layer):
    """Codes -> their vectors, summed over stages.

    Input: int32 (...) for one stage, (..., stages) for more. Output: float32 (..., dim).
    """

    def __init__(self, size: int, dim: int, stages: int = 1, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.size, self.dim, self.stages = size, dim, stages
        start = keras.initializers.RandomNormal(stddev=dim**-0.5)
        # Moved by averages, not by gradients.
        self.entries = self.add_weight((stages, size, dim), start, trainable=False, autocast=False, name="entries")

    def call(self, codes):
        codes = ops.cast(codes, "int32")
        if self.stages == 1:
            return ops.take(self.entries[0], codes, axis=0)
        return sum(ops.take(self.entries[stage], codes[..., stage], axis=0) for stage in range(self.stages))

    def compute_output_spec(self, codes):
        shape = codes.shape if self.stages == 1 else codes.shape[:-1]
        return keras.KerasTensor((*shape, self.dim), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "size": self.size, "dim": self.dim, "stages": self.stages}


@keras.saving.register_keras_serializable(_package)
class VectorQuantiser(Quantiser):
    """Vector quantisation with a codebook that follows its encodings (van den Oord et al., 2017).

    In training each code's vector is the moving average of the encodings that chose it. The first training step puts
    the codebook at the centres that k-means finds in that batch, and a code that is hardly chosen starts anew at an
    encoding of the batch, one far from every code as a rule (Dhariwal et al., 2020): its average and its count start
    anew with it, as otherwise the next average would put it back.

    Args:
        codebook_size: codes of a stage, K.
        code_dim: dimensions of an encoding and of a code's vector; few, so that near means alike (Yu et al., 2022).
        stages: each after the first quantises what those before it left (Zeghidour et al., 2021).
        normalise: compare by direction alone: encodings, and the first stage's vectors, are scaled to length 1.
        gradient: ``"rotation"`` (:func:`rotation_trick`) or ``"straight_through"``.
        commitment: the variance of the Gaussian round each vector: ``"fixed"`` at 1, or ``"adapted"`` to be that of
            the encodings, so that the loss does not change with their scale.
        decay: of the moving averages, per training step; at first less, (1 + steps) / (10 + steps), as the encodings
            move fastest then.
        restart: share of the average use below which a code starts anew; 0 never does.
        kmeans_steps: iterations of k-means in the first training step; 0 leaves the codebook random.
        seed: of the layer's noise, whose state is saved with the layer.

    Input: (..., code_dim). Output: int32 (...) for one stage, (..., stages) for more.
    """

    def __init__(
        self,
        codebook_size: int = 256,
        code_dim: int = 8,
        stages: int = 1,
        *,
        normalise: bool = True,
        gradient: str = "rotation",
        commitment: str = "adapted",
        decay: float = 0.99,
        restart: float = 0.1,
        kmeans_steps: int = 10,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, count, least in (
            ("codebook_size", codebook_size, 2), ("code_dim", code_dim, 1), ("stages", stages, 1),
            ("kmeans_steps", kmeans_steps, 0),
        ):  # fmt: skip
            if int(count) != count or count < least:
                raise InputError(f"{name} must be a whole number from {least} up, received {count!r}")
        for name, choice, names in (("gradient", gradient, GRADIENTS), ("commitment", commitment, COMMITMENTS)):
            if choice not in names:
                raise InputError(f"{name} must be one of {', '.join(names)}, received {choice!r}")
        for name, part in (("decay", decay), ("restart", restart)):
            if not 0.0 <= part < 1.0:
                raise InputError(f"{name} must be at least 0 and below 1, received {part}")
        self.codebook_size, self.code_dim, self.stages = int(codebook_size), int(code_dim), int(stages)
        self.normalise, self.gradient, self.commitment = normalise, gradient, commitment
        self.decay, self.restart, self.kmeans_steps, self.seed = decay, restart, int(kmeans_steps), seed
        self.generator = keras.random.SeedGenerator(seed)
        self.codebook = Codebook(self.codebook_size, self.code_dim, self.stages, name="codebook")
        shape = (self.stages, self.codebook_size)

        def state(name, shape, start):
            return self.add_weight(shape, start, trainable=False, autocast=False, name=name)

        # As if each code had been chosen once, by its own vector.
        self.use = state("use", shape, "ones")
        self.sums = state("sums", (*shape, self.code_dim), "zeros")
        self.steps = state("steps", (), "zeros")
        if normalise:
            entries = self.codebook.entries
            entries.assign(ops.concatenate([unit_length(entries[:1]), entries[1:]], axis=0))
        # A product and not the entries themselves: two variables of one buffer cannot be given to a step under jax.
        self.sums.assign(self.codebook.entries * self.use[..., None])

    def prepare(self, encodings):
        encodings = ops.cast(encodings, "float32")
        return unit_length(encodings) if self.normalise else encodings

    def nearest(self, vectors):
        rest, codes = ops.reshape(vectors, (-1, self.code_dim)), []
        for stage in range(self.stages):
            entries = self.codebook.entries[stage]
            codes.append(nearest_index(squared_distances(rest, entries)))
            rest = rest - ops.take(entries, codes[-1], axis=0)
        return self._shaped(codes, vectors)

    def estimate(self, encodings, training: bool) -> Estimate:
        points = self.prepare(encodings)
        flat = ops.reshape(points, (-1, self.code_dim))
        rest, codes, unused, learned = flat, [], 0.0, []
        uniform: Any = None
        if training:
            uniform = keras.random.uniform((1 + self.kmeans_steps, self.codebook_size), seed=self.generator)
        for stage in range(self.stages):
            detached = ops.stop_gradient(rest)
            entries, use, sums = (x[stage] for x in (self.codebook.entries, self.use, self.sums))
            if training and self.kmeans_steps:
                entries, use, sums = self._start(stage, detached, uniform, entries, use, sums)
            distances = squared_distances(rest, entries)
            codes.append(nearest_index(distances))
            unused = unused + self._unused(distances)
            if training:
                distance = ops.min(distances, axis=-1)
                learned.append(self._learn(stage, detached, codes[-1], distance, uniform[0], entries, use, sums))
            rest = rest - ops.take(entries, codes[-1], axis=0)
        if training:
            for variable, new in zip((self.codebook.entries, self.use, self.sums), zip(*learned)):
                variable.assign(ops.stack(new))
            self.steps.assign_add(1.0)
        vectors = ops.reshape(ops.stop_gradient(flat - rest), ops.shape(points))
        passed = {"rotation": rotation_trick, "straight_through": straight_through}[self.gradient](points, vectors)
        squares = ops.sum(ops.square(points - vectors), axis=tuple(range(1, len(points.shape))))
        commitment = 0.5 * squares / (self._variance(flat, vectors) if self.commitment == "adapted" else 1.0)
        positions = math.prod(points.shape[1:-1])
        return Estimate(passed, self._shaped(codes, points), commitment, ops.zeros_like(squares) + positions * unused)

    def _shaped(self, codes, points):
        codes = [ops.reshape(ops.cast(code, "int32"), ops.shape(points)[:-1]) for code in codes]
        return codes[0] if self.stages == 1 else ops.stack(codes, axis=-1)

    def _spherical(self, stage: int) -> bool:
        return self.normalise and stage == 0

    def _start(self, stage, points, uniform, entries, use, sums):
        """Entries, use and sums as they are, or as k-means finds them in the first training step."""
        return ops.cond(
            self.steps > 0.0,
            lambda: (entries, use, sums),
            lambda: kmeans(points, uniform, self._spherical(stage)),
        )

    def _learn(self, stage, points, index, distance, uniform, entries, use, sums):
        """Entries, use and sums after one more batch."""
        count, total = tally(points, index, self.codebook_size)
        decay = ops.minimum(self.decay, (1.0 + self.steps) / (10.0 + self.steps))
        use = decay * use + (1.0 - decay) * count
        sums = decay * sums + (1.0 - decay) * total
        everything = ops.sum(use)
        smooth = (use + EPSILON) / (everything + self.codebook_size * EPSILON) * everything
        entries = sums / smooth[:, None]
        entries = unit_length(entries) if self._spherical(stage) else entries
        if self.restart:
            share = everything / self.codebook_size
            dead = use < self.restart * share
            fresh = draw(points, distance, uniform)
            entries = ops.where(dead[:, None], fresh, entries)
            sums = ops.where(dead[:, None], fresh * share, sums)
            use = ops.where(dead, share, use)
        return entries, use, sums

    def _unused(self, distances):
        """log K less the entropy of the batch's average choice, in nats of a position.

        The choice is softened as in a mixture of Gaussians round the codes, as wide as the error of quantisation.
        """
        variance = ops.stop_gradient(ops.mean(ops.min(distances, axis=-1))) / self.code_dim
        choice = ops.mean(ops.softmax(-0.5 * distances / (variance + 1e-6), axis=-1), axis=0)
        return math.log(self.codebook_size) + ops.sum(choice * ops.log(choice + 1e-12))

    def _variance(self, points, vectors):
        """Of the batch's encodings, averaged over dimensions; a constant for the gradient.

        It is taken as no less than a tenth of the codes' mean square: encodings that are all alike, as those of a batch
        of silence, have none.
        """
        least = 0.1 * ops.mean(ops.square(vectors))
        return ops.stop_gradient(ops.maximum(ops.mean(ops.var(points, axis=0)), least)) + 1e-6

    def compute_output_spec(self, inputs):
        shape = inputs.shape[:-1] if self.stages == 1 else (*inputs.shape[:-1], self.stages)
        return keras.KerasTensor(shape, dtype="int32")

    def save_own_variables(self, store):
        for name in ("use", "sums", "steps"):
            store[name] = ops.convert_to_numpy(getattr(self, name))
        store["noise"] = ops.convert_to_numpy(self.generator.state)

    def load_own_variables(self, store):
        for name in ("use", "sums", "steps"):
            getattr(self, name).assign(store[name])
        self.generator.state.assign(store["noise"])

    def get_config(self):
        names = (
            "codebook_size", "code_dim", "stages", "normalise", "gradient", "commitment", "decay", "restart",
            "kmeans_steps", "seed",
        )  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(_package)
class ScalarCodebook(keras.layers.Layer):
    """Codes of a :class:`FiniteScalarQuantiser` -> their vectors, in steps of 1 / (levels // 2); no weights.

    Input: int32 (...). Output: float32 (..., len(levels)).
    """

    def __init__(self, levels, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.levels = tuple(int(n) for n in levels)

    def call(self, codes):
        rest, digits = ops.cast(codes, "int32"), []
        for count in self.levels:
            digits.append((ops.cast(rest % count, "float32") - count // 2) / (count // 2))
            rest = rest // count
        return ops.stack(digits, axis=-1)

    def compute_output_spec(self, codes):
        return keras.KerasTensor((*codes.shape, len(self.levels)), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


@keras.saving.register_keras_serializable(_package)
class FiniteScalarQuantiser(Quantiser):
    """Each dimension rounded to a few levels (Mentzer et al., 2024): no codebook to learn, none to collapse.

    Args:
        levels: of each dimension, at least 3 (of two, the squashing nearly always gives the upper one); their product
            is the codebook's size. (8, 6, 5) gives 240.

    Input: (..., len(levels)). Output: int32 (...), the first dimension's level counting fastest.
    """

    stages = 1

    def __init__(self, levels=(8, 6, 5), **kwargs):
        super().__init__(**kwargs)
        self.levels = tuple(int(n) for n in levels)
        if not self.levels or any(n < 3 for n in self.levels):
            raise InputError(f"levels must be whole numbers from 3 up, received {levels!r}")
        self.codebook_size, self.code_dim = math.prod(self.levels), len(self.levels)
        self.codebook = ScalarCodebook(self.levels, name="codebook")

    def prepare(self, encodings):
        """Squashed so that rounding to steps of 1 / (levels // 2) gives each dimension its number of levels."""
        half = [(n - 1) * (1.0 + 1e-3) / 2.0 for n in self.levels]
        offset = [0.5 * (n % 2 == 0) for n in self.levels]
        shift = [math.atanh(o / h) for o, h in zip(offset, half)]
        half, offset, shift = (ops.convert_to_tensor(x, dtype="float32") for x in (half, offset, shift))
        return (ops.tanh(ops.cast(encodings, "float32") + shift) * half - offset) / self._steps()

    def nearest(self, vectors):
        digits = ops.cast(ops.round(vectors * self._steps() + self._steps()), "int32")
        weights = [math.prod(self.levels[:index]) for index in range(self.code_dim)]
        return ops.sum(digits * ops.convert_to_tensor(weights, dtype="int32"), axis=-1)

    def estimate(self, encodings, training: bool) -> Estimate:
        points = self.prepare(encodings)
        codes = self.nearest(points)
        nothing = ops.zeros_like(ops.max(points, axis=tuple(range(1, len(points.shape)))))
        return Estimate(straight_through(points, self.lookup(codes)), codes, nothing, nothing)

    def _steps(self):
        return ops.convert_to_tensor([n // 2 for n in self.levels], dtype="float32")

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape[:-1], dtype="int32")

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}
