"""Weights stored smaller than they were trained: half floats, or whole numbers of 8 bits with a scale."""

import contextlib
import math

import keras
import numpy as np
import tensorflow as tf

from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.serving.endpoints import Endpoint, examples

KINDS = ("float32", "float16", "int8")


class StoredWeights:
    """The weights of a codec as an export keeps them, and how its graph reads them.

    Kernels, embeddings and codebooks (two dimensions and more) of encoder, decoder and prior are reduced and become
    float32 again in the graph, where computing stays as it was. Vectors, such as biases, and the representation are few
    and stay float32. ``"int8"`` rounds to 127 steps on each side of zero, with a scale for each index of the last axis
    (weight-only quantisation after training). The codec itself is left as it is.

    Args:
        codec: whose weights.
        kind: one of ``KINDS``.

    Raises:
        InputError: an unknown kind.
    """

    def __init__(self, codec: Codec, kind: str = "float32"):
        if kind not in KINDS:
            raise InputError(f"weights must be one of {', '.join(KINDS)}, received {kind!r}")
        self.kind = kind
        self.plain: list[tf.Variable] = [weight.value for weight in codec.representation.weights]
        self.reduced: dict[int, list[tf.Variable]] = {}  # by the id of Keras's variable
        prior = codec.learned_prior
        for weight in [*codec.encoder.weights, *codec.decoder.weights, *(prior.weights if prior is not None else ())]:
            if kind == "float32" or len(weight.shape) < 2 or weight.dtype != "float32":
                self.plain.append(weight.value)
            else:
                self.reduced[id(weight)] = _reduced(np.asarray(weight), kind)

    @property
    def variables(self) -> list[tf.Variable]:
        """All that an export keeps: plain TensorFlow variables, as who loads it has no Keras."""
        return [*self.plain, *(variable for variables in self.reduced.values() for variable in variables)]

    def read(self) -> contextlib.AbstractContextManager:
        """Within this context, while a graph is traced, Keras reads the stored weights in place of its own."""
        return _Reading(self.reduced) if self.reduced else contextlib.nullcontext()


class _Reading(keras.StatelessScope):
    """Restores a weight when it is read, so that it happens in the graph of whoever reads it, not once before."""

    def __init__(self, reduced: dict[int, list[tf.Variable]]):
        super().__init__()
        self.reduced = reduced

    def get_current_value(self, variable):
        stored = self.reduced.get(id(variable))
        return super().get_current_value(variable) if stored is None else _restored(*stored)


def error_db(table: list[Endpoint], full: list[Endpoint], waveform: np.ndarray) -> dict[str, float]:
    """What reduced weights cost: RMS error over RMS of ``encode``'s latents and of ``reconstruct``'s features, in dB.

    Codes and waveforms are left out: the error of a code is no number, and a phase search makes another waveform of
    nearly equal features.

    Args:
        table: endpoints that read reduced weights.
        full: the codec's own.
        waveform: [shape=(batch, samples)].
    """
    tried, functions = examples(full, waveform), {endpoint.name: endpoint.function for endpoint in table}
    figures = {}
    for name in ("encode", "reconstruct"):
        inputs, expected = tried[name]
        found = functions[name](*map(tf.constant, inputs.values()))
        pairs = [(found[key].numpy(), value) for key, value in expected.items() if value.dtype == np.float32]
        if pairs:
            error = sum(float(np.sum(np.square(new - old))) for new, old in pairs)
            power = sum(float(np.sum(np.square(old))) for _, old in pairs)
            figures[name] = 10.0 * math.log10(max(error / max(power, 1e-20), 1e-20))
    return figures


def _reduced(values: np.ndarray, kind: str) -> list[tf.Variable]:
    if kind == "float16":
        return [tf.Variable(values.astype(np.float16), trainable=False)]
    scale = np.abs(values).max(axis=tuple(range(values.ndim - 1)), keepdims=True) / 127.0
    steps = np.round(np.divide(values, scale, out=np.zeros_like(values), where=scale > 0.0))
    return [tf.Variable(steps.astype(np.int8), trainable=False), tf.Variable(scale, trainable=False)]


def _restored(values, scale=None):
    values = tf.cast(values, tf.float32)
    return values if scale is None else values * scale
