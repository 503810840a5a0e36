"""Gated PixelCNN (van den Oord et al., 2016, arXiv 1606.05328) over maps of codes, optionally with attention.

Rows are frames and columns bins, so that the causal order is time-major. A vertical stack sees the frames before, a
horizontal one the lower bins of the same frame; it takes the vertical one up in every layer, so there is no blind spot.
Inputs are shifted by one frame and one bin; after that padding on one side makes a convolution causal, and no kernel is
masked.
"""

from typing import Any

import keras
from keras import ops

from spectrovae.models.autoregressive import CodePrior, check_preset, dense, embedding, gated, shift, write

# ``kernel``: frames (its own and those before) and bins (centred, odd) of the vertical stack; ``reach``: bins of the
# horizontal one (its own and lower). ``small`` sees the whole of a map of 16 x 8.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "features": 32, "layers": 2, "kernel": (2, 3), "reach": 2},
    "small": {"width": 64, "features": 128, "layers": 8, "kernel": (2, 5), "reach": 3},
    "base": {"width": 128, "features": 256, "layers": 12, "kernel": (2, 5), "reach": 3},
}


class GatedLayer(keras.layers.Layer):
    """A layer of both stacks; what it computes of a whole map it also computes of one row, and of one position.

    Args:
        width: of both stacks.
        features: of what goes to the output.
        kernel, reach: see ``PRESETS``.
        conditioned: whether a context is given.
        last: whether nothing follows but the output, so that residual paths would be of no use.
    """

    def __init__(
        self, width: int, features: int, kernel, reach: int, dropout: float, conditioned: bool, last: bool, **kwargs
    ):
        super().__init__(**kwargs)
        self.frames, self.bins = kernel
        self.reach = reach
        self.above = keras.layers.Conv2D(2 * width, kernel)
        self.above.build((None, None, None, width))
        self.link = dense(2 * width, 2 * width, use_bias=False)
        self.beside = dense(reach * width, 2 * width)
        gates = (1 if last else 2) if conditioned else 0
        self.conditions = [dense(width, 2 * width, use_bias=False) for _ in range(gates)]
        self.dropout = keras.layers.Dropout(dropout)
        self.residuals = [] if last else [dense(width, width) for _ in range(2)]
        self.skip = dense(width, features)

    def build(self, input_shape=None):
        self.built = True

    def contexts(self, context):
        """The condition's part in the vertical and in the horizontal gate, (batch, 2 width) each, or None."""
        found = [condition(context) for condition in self.conditions]
        return (*(None for _ in range(2 - len(found))), *found)

    def vertical(self, rows, context):
        """(batch, frames - 1 + n, bins, width) -> n rows, (batch, n, bins, width), and their links (..., 2 width)."""
        side = self.bins // 2
        y = self.above(ops.pad(rows, [(0, 0), (0, 0), (side, side), (0, 0)]))
        link = self.link(y)
        y = y if context is None else y + context[:, None, None]
        v = rows[:, self.frames - 1 :]
        return v + self.residuals[0](gated(y)) if self.residuals else v, link

    def horizontal(self, taps, link, context, training=False):
        """The last ``reach`` positions, lowest first, and links -> (..., width) and skips (..., features)."""
        y = self.beside(ops.concatenate(taps, axis=-1)) + link
        y = y if context is None else y + context
        y = self.dropout(gated(y), training=training)
        return taps[-1] + self.residuals[1](y) if self.residuals else taps[-1], self.skip(y)

    def call(self, v, h, context=None, training=False):
        """Both stacks of whole maps (batch, frames, bins, width), and their skips."""
        above, beside = self.contexts(context)
        v, link = self.vertical(ops.pad(v, [(0, 0), (self.frames - 1, 0), (0, 0), (0, 0)]), above)
        taps = [*(shift(h, n, axis=2) for n in reversed(range(1, self.reach))), h]
        beside = None if beside is None else beside[:, None, None]
        return v, *self.horizontal(taps, link, beside, training)


class CausalAttention(keras.layers.Layer):
    """Attention of each position to all before it in causal order (PixelSNAIL, Chen et al., 2017, arXiv 1712.09763).

    Keys and values come of the features and the code of a position. The first has nothing before it: a key of its own
    stands for that, and may be attended to by all.
    """

    def __init__(self, width: int, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.query = dense(width, width)
        self.pairs = dense(2 * width, 2 * width)
        self.nothing = embedding(1, 2 * width)
        self.output_layer = dense(width, width)

    def build(self, input_shape=None):
        self.built = True

    def call(self, h, codes):
        """Features and code vectors, (batch, places, width) each -> (batch, places, width)."""
        places = ops.arange(h.shape[1], dtype="int32")
        pairs = self.pairs(ops.concatenate([h, codes], axis=-1))
        first = ops.broadcast_to(self._first(), (ops.shape(h)[0], 1, 2 * self.width))
        pairs = ops.concatenate([first, pairs], axis=1)
        seen = ops.arange(h.shape[1] + 1, dtype="int32")[None] <= places[:, None]  # the first key is that of nothing
        keys, values = (self._split(x) for x in ops.split(pairs, 2, axis=-1))
        return h + self._attend(self._split(self.query(h)), keys, values, seen)

    def step(self, h, memory, place):
        """Of one position (batch, width), from the memory of those before it."""
        keys, values = (self._split(x) for x in ops.split(ops.transpose(memory, (1, 0, 2)), 2, axis=-1))
        seen = ops.arange(memory.shape[0], dtype="int32")[None] <= place
        return h + self._attend(self._split(self.query(h)[:, None]), keys, values, seen)[:, 0]

    def remember(self, h, code, memory, place):
        """The memory with the pair of a position whose code is known now."""
        return write(memory, place + 1, self.pairs(ops.concatenate([h, code], axis=-1)))

    def memory(self, places: int, batch):
        """(1 + places, batch, 2 width): the key and value of nothing, then zeros."""
        first = ops.broadcast_to(self._first(), (1, batch, 2 * self.width))
        return ops.concatenate([first, ops.zeros((places, batch, 2 * self.width), first.dtype)], axis=0)

    def _first(self):
        return self.nothing(ops.zeros((1, 1), "int32"))

    def _split(self, x):
        return ops.reshape(x, (-1, x.shape[1], self.heads, self.width // self.heads))

    def _attend(self, queries, keys, values, seen):
        scores = ops.einsum("bqhd,bkhd->bhqk", queries, keys) * (self.width // self.heads) ** -0.5
        scores = ops.where(seen[None, None], ops.cast(scores, "float32"), -1e9)
        weights = ops.cast(ops.softmax(scores, axis=-1), values.dtype)
        found = ops.einsum("bhqk,bkhd->bqhd", weights, values)
        return self.output_layer(ops.reshape(found, (-1, found.shape[1], self.width)))


@keras.saving.register_keras_serializable("spectrovae")
class PixelCNN(CodePrior):
    """Codes of a map, each from all before it: earlier frames, lower bins of its frame, earlier stages of its place.

    Learned vectors tell the frames and bins apart, as maps have a fixed size. The vertical stack has residual paths
    too, unlike the paper's. The codes of a place with several stages enter as the sum of their vectors, as residual
    quantisers add them up.

    Args:
        latent_shape: (height, width) or (height, width, stages), time along the width.
        classes: number of codes.
        preset: ``"tiny"`` (tests), ``"small"`` (CPU) or ``"base"`` (GPU).
        attention: whether a layer of attention stands half-way.
        dropout: of what a layer adds, in training.
        conditions, condition_dropout, seed: see :class:`spectrovae.models.priors.Prior`.
    """

    def __init__(
        self,
        latent_shape,
        classes: int,
        *,
        preset: str = "small",
        attention: bool = False,
        dropout: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        shape = check_preset(preset, PRESETS)
        width, features = shape["width"], shape["features"]
        super().__init__(latent_shape, classes, width=width, dropout=dropout, seed=seed, **kwargs)
        self.preset = preset
        self.places = self.frames * self.bins
        self.frame_vectors, self.bin_vectors = embedding(self.frames, width), embedding(self.bins, width)
        given, count = bool(self.conditions), shape["layers"]
        stacks = (width, features, shape["kernel"], shape["reach"], dropout, given)
        self.gates = [GatedLayer(*stacks, index == count - 1, name=f"gate_{index}") for index in range(count)]
        self.attention: Any = CausalAttention(width, max(1, width // 32)) if attention else None
        self.stage_vectors: Any = embedding((self.stages - 1) * self.classes, features) if self.stages > 1 else None
        self.hidden = [dense(features, features, activation="relu") for _ in range(self.stages)]
        self.heads = [dense(features, self.classes) for _ in range(self.stages)]

    def sequence_logits(self, codes, context, training=False):
        codes = ops.reshape(codes, (-1, self.frames, self.bins, self.stages))
        vectors = sum(self._vector(codes[..., stage], stage) for stage in range(self.stages))
        position = self.frame_vectors(ops.arange(self.frames))[:, None] + self.bin_vectors(ops.arange(self.bins))
        v, h = shift(vectors, 1, axis=1) + position, shift(vectors, 1, axis=2) + position
        total = 0.0
        for index, gate in enumerate(self.gates):
            if self._attends(index):
                flat = self.attention(*(ops.reshape(x, (-1, self.places, self.width)) for x in (h, vectors)))
                h = ops.reshape(flat, (-1, self.frames, self.bins, self.width))
            v, h, skip = gate(v, h, context, training=training)
            total = total + skip
        found = []
        for stage in range(self.stages):
            found.append(self._head(total, stage))
            total = self._with_stage(total, codes[..., stage], stage)
        return ops.reshape(ops.stack(found, axis=3), (-1, self.size, self.classes))

    def walk(self, pick, batch, context, kept=()):
        contexts = [gate.contexts(context) for gate in self.gates]
        dtype = self.compute_dtype
        nothing = ops.zeros((batch, self.width), dtype)
        no_row = ops.zeros((batch, self.bins, self.width), dtype)

        def links_of(frame, row, past):
            """The vertical stack of a row, from the vectors of the row before; (bins, batch, 2 width) of each layer."""
            v = row + self.frame_vectors(frame) + self.bin_vectors(ops.arange(self.bins))
            links, renewed = [], []
            for gate, rows, (above, _) in zip(self.gates, past, contexts):
                renewed.append((*rows[1:], v))
                v, link = gate.vertical(ops.stack([*rows, v], axis=1), above)
                v = v[:, 0]
                links.append(ops.transpose(link[:, 0], (1, 0, 2)))
            return links, tuple(renewed)

        def position(frame, links, bin_, codes, kept, vector, row, past, memory):
            h = vector + self.frame_vectors(frame) + self.bin_vectors(bin_)
            place = frame * self.bins + bin_
            total, renewed, asked = 0.0, [], h
            for index, (gate, taps, (_, beside)) in enumerate(zip(self.gates, past, contexts)):
                if self._attends(index):
                    asked, h = h, self.attention.step(h, memory[0], place)
                renewed.append((*taps[1:], h) if taps else ())
                h, skip = gate.horizontal([*taps, h], ops.take(links[index], bin_, axis=0), beside)
                total = total + skip
            vector = 0.0
            for stage in range(self.stages):
                logits = self._head(total, stage)
                code, codes, kept = self.record(codes, kept, place * self.stages + stage, logits, pick)
                total = self._with_stage(total, code, stage)
                vector = vector + self._vector(code, stage)
            if self.attention is not None:
                memory = (self.attention.remember(asked, vector, memory[0], place),)
            return bin_ + 1, codes, kept, vector, write(row, bin_, vector), tuple(renewed), memory

        def one_row(frame, codes, kept, row, past, memory):
            links, past = links_of(frame, row, past)
            _, codes, kept, _, row, _, memory = ops.while_loop(
                lambda bin_, *_: bin_ < self.bins,
                lambda *state: position(frame, links, *state),
                (
                    ops.convert_to_tensor(0, "int32"),
                    codes,
                    kept,
                    nothing,
                    ops.transpose(no_row, (1, 0, 2)),
                    tuple((nothing,) * (gate.reach - 1) for gate in self.gates),
                    memory,
                ),
            )
            return frame + 1, codes, kept, ops.transpose(row, (1, 0, 2)), past, memory

        start = (
            ops.convert_to_tensor(0, "int32"),
            ops.zeros((self.size, batch), "int32"),
            kept,
            no_row,
            tuple((no_row,) * (gate.frames - 1) for gate in self.gates),
            () if self.attention is None else (self.attention.memory(self.places, batch),),
        )
        _, codes, kept, *_ = ops.while_loop(lambda frame, *_: frame < self.frames, one_row, start)
        return codes, kept

    def _attends(self, index):
        return self.attention is not None and index == len(self.gates) // 2

    def _vector(self, code, stage):
        return self.code_vectors(code + stage * self.classes)

    def _head(self, total, stage):
        return self.heads[stage](self.hidden[stage](ops.relu(total)))

    def _with_stage(self, total, code, stage):
        """What the later stages of a position see of this one."""
        if stage == self.stages - 1:
            return total
        return total + self.stage_vectors(code + stage * self.classes)

    def get_config(self):
        return {
            **super().get_config(),
            "preset": self.preset,
            "attention": self.attention is not None,
            "dropout": self.dropout,
        }
