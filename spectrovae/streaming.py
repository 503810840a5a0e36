"""A causal codec block after block, with an explicit state: for live sound, and for a server that keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from spectrovae.dsp import pqmf
from spectrovae.errors import InputError
from spectrovae.representations import Subbands
from spectrovae.streaming_layers import Remembering

if TYPE_CHECKING:
    from spectrovae.codec import Codec


class Steps:
    """Encoder and decoder of a codec as functions of a block and the state before it.

    The results are those of the whole file: latents are what ``codec.encoder`` makes of the sub-bands of the sound
    after ``delay`` samples of silence, and a decoded waveform is what ``codec.decode`` gives, ``delay`` samples later.

    Attributes:
        ratio: samples a latent frame; blocks of a waveform are multiples of it.
        delay: samples by which each of the two filter banks is late.
        latent_dim: dimensions of a latent frame.
        encode_specs, decode_specs: of the tensors of either state, float32 or int32 with the batch first; all begin as
            zeros.

    Raises:
        InputError: the codec is not made of causal convolutions over sub-bands.
    """

    def __init__(self, codec: Codec):
        remembering = [
            layer for part in (codec.encoder, codec.decoder) for layer in part.layers if isinstance(layer, Remembering)
        ]
        if not codec.whole or not isinstance(codec.representation, Subbands) or not remembering:
            raise InputError(f"{codec.name} ({codec.family}) cannot stream: that takes a rave fitted with --causal")
        late = [layer.name for layer in remembering if not layer.causal]
        if late:
            raise InputError(
                f"{codec.name} cannot stream: its convolutions see later samples ({late[0]}); fit it with --causal"
            )
        self.codec, self.filters = codec, codec.representation.filters
        self.bands, self.peak = codec.representation.hop_length, codec.representation.peak
        frames, self.latent_dim = codec.latent_shapes[0]
        self.ratio = codec.segment_samples // frames
        self.delay = 0 if self.filters is None else pqmf.delay(self.filters)
        banks = [] if self.filters is None else [((pqmf.state_frames(self.filters), self.bands), "float32")]
        self.encode_specs = _specs("encode", banks + _states(codec.encoder))
        self.decode_specs = _specs("decode", _states(codec.decoder) + banks)

    def encode(self, waveform, state: Sequence) -> tuple[Any, list]:
        """(batch, a multiple of ``ratio`` samples) -> (latent (batch, frames, latent_dim), state)."""
        state = list(state)
        if self.filters is None:
            bands, banks = waveform[..., None], []
        else:
            bands, bank = pqmf.analysis_step(waveform, state.pop(0), self.filters)
            banks = [bank]
        features = tf.transpose(bands, [0, 2, 1])[..., None] / self.peak
        latent, renewed = _run(self.codec.encoder, features, state)
        return latent, banks + renewed

    def decode(self, latent, state: Sequence) -> tuple[Any, list]:
        """(batch, frames, latent_dim) -> (waveform (batch, frames * ratio), state)."""
        state = list(state)
        banks = [] if self.filters is None else [state.pop()]
        features, renewed = _run(self.codec.decoder, latent, state)
        bands = tf.transpose(self.codec.representation.samples_in(features)[..., 0], [0, 2, 1])
        if self.filters is None:
            return bands[..., 0], renewed
        waveform, bank = pqmf.synthesis_step(bands, banks[0], self.filters)
        return waveform, [*renewed, bank]


def can_stream(codec: Codec) -> bool:
    """Whether :class:`Steps` takes the codec."""
    try:
        Steps(codec)
    except InputError:
        return False
    return True


class StreamingCodec:
    """A codec for a live host: blocks of any number of samples in, latents or as many samples out.

    Buffers are made once; a call allocates nothing but TensorFlow's own tensors.

    Args:
        codec: made of causal convolutions, a ``rave`` fitted with ``causal``.
        batch: streams side by side.
        block_size: samples of every block, where they are all as long; None for any. A multiple of ``ratio`` needs no
            waiting for the rest of a latent frame.

    Attributes:
        ratio: samples a latent frame.
        latency: samples by which :meth:`process` is late: both filter banks', and what waits for a latent frame.

    Raises:
        InputError: the codec cannot stream.
    """

    def __init__(self, codec: Codec, batch: int = 1, block_size: int | None = None):
        self.steps, self.sample_rate, self.batch = Steps(codec), codec.sample_rate, batch
        self.ratio = self.steps.ratio
        if batch < 1 or (block_size is not None and block_size < 1):
            raise InputError(f"batch and block_size must be at least 1, received {batch} and {block_size}")
        self.block_size = block_size
        self._waiting_samples = self.ratio - int(np.gcd(self.ratio, block_size or 1))
        self.latency = 2 * self.steps.delay + self._waiting_samples
        encode, decode = self.steps.encode_specs, self.steps.decode_specs
        samples = tf.TensorSpec([batch, self.ratio], tf.float32)
        latent = tf.TensorSpec([batch, 1, self.steps.latent_dim], tf.float32)
        self._encode = self._function(self.steps.encode, samples, encode)
        self._decode = self._function(self.steps.decode, latent, decode)
        self._encode_decode = self._function(self._both, samples, [*encode, *decode])
        self._inbox = np.zeros((batch, self.ratio), np.float32)
        self._outbox = np.zeros((batch, 2 * self.ratio), np.float32)
        self.reset()
        # A function's first call prepares its graph, for longer than a live host can wait.
        silence = tf.zeros(samples.shape)
        self._encode_decode(silence, *self._encode_state, *self._decode_state)
        self._decode(self._encode(silence, *self._encode_state)[0], *self._decode_state)

    @property
    def latency_ms(self) -> float:
        """``latency`` in ms."""
        return 1000.0 * self.latency / self.sample_rate

    def reset(self) -> None:
        """Forget all that was heard."""
        self._encode_state, self._decode_state = (
            [tf.zeros([self.batch, *spec.shape[1:]], spec.dtype) for spec in specs]
            for specs in (self.steps.encode_specs, self.steps.decode_specs)
        )
        self._received, self._ready = 0, self._waiting_samples
        self._outbox[:] = 0.0

    def encode(self, block: np.ndarray) -> np.ndarray:
        """The latent frames that a block (batch, samples) completes: (batch, frames, latent_dim), perhaps none."""
        found = [latent.numpy() for latent in self._latents(self._checked(block))]
        empty = np.zeros((self.batch, 0, self.steps.latent_dim), np.float32)
        return np.concatenate([empty, *found], axis=1)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """The samples of latent frames (batch, frames, latent_dim): (batch, frames * ratio), the filter bank's late."""
        latent = np.asarray(latent, np.float32)
        if latent.ndim != 3 or latent.shape[::2] != (self.batch, self.steps.latent_dim):
            raise InputError(f"latent must be ({self.batch}, frames, {self.steps.latent_dim}), received {latent.shape}")
        found = [self._decoded(tf.constant(latent[:, n : n + 1])) for n in range(latent.shape[1])]
        return np.concatenate([np.zeros((self.batch, 0), np.float32), *found], axis=1)

    def process(self, block: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """A block (batch, samples) through the codec: as many samples, ``latency`` late.

        Args:
            out: where to write them; None for a new array.
        """
        block = self._checked(block)
        out = np.empty(block.shape, np.float32) if out is None else out
        if out.shape != block.shape:
            raise InputError(f"out must be shaped as the block, {block.shape}, received {out.shape}")
        if self.block_size is not None and block.shape[1] != self.block_size:
            raise InputError(f"blocks must have {self.block_size} samples, as was said, received {block.shape[1]}")
        given = taken = 0
        while taken < block.shape[1]:
            taken += self._take(block, taken)
            if self._received == self.ratio:
                given += self._give(out, given)  # there is room for one frame more
                self._outbox[:, self._ready : self._ready + self.ratio] = self._through()
                self._ready += self.ratio
            given += self._give(out[:, :taken], given)
        return out

    def _checked(self, block: np.ndarray) -> np.ndarray:
        block = np.asarray(block)
        if block.ndim != 2 or len(block) != self.batch:
            raise InputError(f"a block must be ({self.batch}, samples), received {block.shape}")
        if block.dtype.kind != "f" or not np.all(np.isfinite(block)):  # the state would remember NaN for ever
            raise InputError(f"a block must be finite floating-point samples in [-1, 1], received {block.dtype}")
        return np.asarray(block, np.float32)

    def _latents(self, block: np.ndarray):
        taken = 0
        while taken < block.shape[1]:
            taken += self._take(block, taken)
            if self._received == self.ratio:
                yield self._encoded()

    def _take(self, block: np.ndarray, start: int) -> int:
        """Samples of a block from ``start`` on into the inbox, as many as fit; returns how many."""
        count = min(self.ratio - self._received, block.shape[1] - start)
        self._inbox[:, self._received : self._received + count] = block[:, start : start + count]
        self._received += count
        return count

    def _give(self, out: np.ndarray, start: int) -> int:
        """Samples of the outbox to ``out`` from ``start`` on, as many as there are; returns how many."""
        count = min(self._ready, out.shape[1] - start)
        out[:, start : start + count] = self._outbox[:, :count]
        rest = self._ready - count
        self._outbox[:, :rest] = self._outbox[:, count : self._ready]
        self._ready = rest
        return count

    def _encoded(self):
        latent, *self._encode_state = self._encode(tf.constant(self._inbox), *self._encode_state)
        self._received = 0
        return latent

    def _decoded(self, latent) -> np.ndarray:
        waveform, *self._decode_state = self._decode(latent, *self._decode_state)
        return waveform.numpy()

    def _through(self) -> np.ndarray:
        """The inbox encoded and decoded, in one function: half the calls, and no latent that leaves it."""
        waveform, *states = self._encode_decode(tf.constant(self._inbox), *self._encode_state, *self._decode_state)
        count = len(self._encode_state)
        self._encode_state, self._decode_state = states[:count], states[count:]
        self._received = 0
        return waveform.numpy()

    def _both(self, block, state: Sequence) -> tuple[Any, list]:
        count = len(self.steps.encode_specs)
        latent, encode_state = self.steps.encode(block, state[:count])
        waveform, decode_state = self.steps.decode(latent, state[count:])
        return waveform, [*encode_state, *decode_state]

    def _function(self, step, block: tf.TensorSpec, specs: list[tf.TensorSpec]):
        def run(block, *state):
            found, renewed = step(block, state)
            return (found, *renewed)

        own = [tf.TensorSpec([self.batch, *spec.shape[1:]], spec.dtype) for spec in specs]
        return tf.function(run, input_signature=[block, *own], autograph=False).get_concrete_function()


def _states(model: keras.Model) -> list[tuple[tuple[int, ...], str]]:
    return [spec for layer in model.layers if isinstance(layer, Remembering) for spec in layer.state_specs()]


def _specs(name: str, states: list) -> list[tf.TensorSpec]:
    return [
        tf.TensorSpec([None, *shape], kind, name=f"{name}_state_{index}") for index, (shape, kind) in enumerate(states)
    ]


def _run(model: keras.Model, inputs, state: Sequence) -> tuple[Any, list]:
    """A functional model with a step in place of each layer that remembers; states in the order of ``model.layers``."""
    remembering = [layer for layer in model.layers if isinstance(layer, Remembering)]
    given, place = {}, 0
    for layer in remembering:
        count = len(layer.state_specs())
        given[layer.name] = list(state[place : place + count])
        place += count
    renewed: dict[str, list] = {}

    def stepping(layer):
        if not isinstance(layer, Remembering):
            return layer

        def step(x, *_, **__):
            y, renewed[layer.name] = layer.step(x, given[layer.name])
            return y

        return step

    outputs = model._run_through_graph(inputs, operation_fn=stepping)
    return outputs, [tensor for layer in remembering for tensor in renewed[layer.name]]
