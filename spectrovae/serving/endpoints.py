"""What an exported model answers: the table of its signatures, from which it is saved, proved and warmed up."""

import contextlib
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from spectrovae.codec import Codec
from spectrovae.conversion import GUIDANCE
from spectrovae.generation import latents_graph, noise_size
from spectrovae.streaming import Steps, can_stream

Tensors = dict[str, np.ndarray]
Reading = Callable[[], contextlib.AbstractContextManager]


class Endpoint(NamedTuple):
    """One signature.

    A further one is a further row: the seed that ``generate`` draws from and states that a stream carries from call to
    call are inputs and outputs like any other, since a served model keeps nothing between requests.

    Args:
        name: of the signature.
        inputs: its named inputs, the first dimension of each the batch.
        function: tensors in the order of ``inputs`` -> named tensors, each with the batch first.
        example: (waveform, results of the rows before) -> inputs to try it with. None: it is not tried.
        tolerance: largest difference from the Keras model that the parity gate allows, relative to the peak.
    """

    name: str
    inputs: list[tf.TensorSpec]
    function: tf.types.experimental.PolymorphicFunction
    example: Callable[[np.ndarray, dict[str, Tensors]], Tensors] | None = None
    tolerance: float = 0.0


def endpoints(
    codec: Codec, reading: Reading = contextlib.nullcontext, description: dict | None = None
) -> list[Endpoint]:
    """The signatures of a codec, in an order in which each can be tried on what those before it returned.

    Args:
        reading: a context in which a graph is traced, :meth:`StoredWeights.read` where weights are stored reduced.
        description: what ``describe`` tells.

    On one machine the served and the Keras model are usually equal to the bit. The tolerances allow for other kernels:
    Griffin-Lim turns a rounding error of 1e-6 in the features, as other convolution kernels make it, into 2e-3 in the
    waveform.
    """
    names = latent_names(codec)
    bins, _, channels = codec.feature_shape
    waveform = tf.TensorSpec([None, None], tf.float32, name="waveform")
    spectrogram = tf.TensorSpec([None, bins, None, channels], tf.float32, name="features")
    request = tf.TensorSpec([None], tf.string, name="request")

    def reconstruct_waveform(waveform):
        return {"waveform": codec.reconstruct_graph(waveform)}

    def features(waveform):
        return {"features": codec.representation(waveform)}

    def encode(waveform):
        return dict(zip(names, tf.nest.flatten(codec.encode_graph(waveform))))

    def decode(*latents):
        return {"waveform": codec.decode_graph(codec.pack(list(latents)), -1)}

    def reconstruct(features):
        return {"features": codec.reconstruct_features_graph(features)}

    def convert(waveform, speaker, guidance):
        return {"waveform": codec.reconstruct_graph(waveform, speaker, tf.maximum(guidance, 0.0))}

    def describe(request):
        few = tf.debugging.assert_less_equal(tf.size(request), 64, "describe takes at most 64 requests")
        with tf.control_dependencies([few]):
            return {"description": tf.fill(tf.shape(request), json.dumps(description))}

    def sound(waveform, results):
        return {"waveform": waveform}

    def voices(waveform, results):
        rows = np.arange(len(waveform), dtype=np.int32)
        speaker = np.int32(rows % (len(codec.speakers) + 1))
        return {
            "waveform": waveform,
            "speaker": speaker,
            "guidance": np.linspace(1.0, 1.5, len(rows), dtype=np.float32),
        }

    def endpoint(run, inputs, *how, name=None):
        function = tf.function(run, input_signature=inputs, autograph=False)
        with reading():
            function.get_concrete_function()  # traced here, and never again
        return Endpoint(name or run.__name__, inputs, function, *how)

    table = [
        endpoint(reconstruct_waveform, [waveform], sound, 1e-2, name="serving_default"),
        endpoint(features, [waveform], sound, 1e-3),
        endpoint(encode, [waveform], sound, 1e-3),
        endpoint(decode, codec.latent_specs(names), lambda _, results: results["encode"], 1e-2),
        endpoint(reconstruct, [spectrogram], lambda _, results: results["features"], 1e-3),
        endpoint(describe, [request]),
    ]
    if codec.speakers:
        # Places in the list of speakers that ``describe`` gives; whatever is no place in it is nobody.
        speaker = tf.TensorSpec([None], tf.int32, name="speaker")
        guidance = tf.TensorSpec([None], tf.float32, name="guidance")
        table.insert(-1, endpoint(convert, [waveform, speaker, guidance], voices, 1e-2))
    if can_stream(codec):
        table[-1:-1] = [endpoint(*row, 1e-3) for row in _stream(codec)]
    if codec.learned_prior is not None or codec.prior == "standard_normal":
        run, inputs, tried = _generate(codec)
        table.insert(-1, endpoint(run, inputs, tried, 1e-2))
    return table


def _stream(codec: Codec):
    """Blocks through a causal codec: a state goes in and out with each, and begins as zeros.

    Blocks of ``stream_encode`` are multiples of the ``samples`` that ``describe`` gives under ``stream``.
    """
    steps = Steps(codec)

    def stream_encode(waveform, *state):
        latent, renewed = steps.encode(waveform, state)
        return {"latent": latent} | {spec.name: tensor for spec, tensor in zip(steps.encode_specs, renewed)}

    def stream_decode(latent, *state):
        waveform, renewed = steps.decode(latent, state)
        return {"waveform": waveform} | {spec.name: tensor for spec, tensor in zip(steps.decode_specs, renewed)}

    def states(specs, rows: int) -> Tensors:
        random = np.random.default_rng(0)
        return {
            spec.name: np.asarray(10 * random.standard_normal((rows, *spec.shape[1:])), spec.dtype.as_numpy_dtype)
            if spec.dtype.is_floating
            else np.arange(rows, dtype=np.int32)[:, None]
            for spec in specs
        }

    def block(waveform, results):
        missing = -waveform.shape[1] % steps.ratio
        return {"waveform": np.pad(waveform, [(0, 0), (0, missing)])} | states(steps.encode_specs, len(waveform))

    def latent(waveform, results):
        return {"latent": results["stream_encode"]["latent"]} | states(steps.decode_specs, len(waveform))

    inputs = tf.TensorSpec([None, None], tf.float32, name="waveform")
    yield stream_encode, [inputs, *steps.encode_specs], block
    inputs = tf.TensorSpec([None, None, steps.latent_dim], tf.float32, name="latent")
    yield stream_decode, [inputs, *steps.decode_specs], latent


def _generate(codec: Codec):
    """Sounds of a segment each from the codec's prior; a row depends on its own inputs alone.

    Inputs are ``seed``, ``temperature`` and the class of each condition, as its place in the list that ``describe``
    gives; the place after the last, or any beyond, is "none given".
    """
    prior = codec.learned_prior
    conditions = dict(prior.conditions) if prior is not None else {}
    if codec.speakers:
        conditions.setdefault("speaker", codec.speakers)
    names, counts = tuple(conditions), {name: len(classes) for name, classes in conditions.items()}
    # The decoder's place of each of the prior's speakers, and nobody's for "none given".
    place, nobody = {name: index for index, name in enumerate(codec.speakers)}, len(codec.speakers)
    places = [place.get(name, nobody) for name in conditions.get("speaker", ())]
    size = noise_size(codec)
    inputs = [tf.TensorSpec([None], tf.int32, "seed"), tf.TensorSpec([None], tf.float32, "temperature")]
    inputs += [tf.TensorSpec([None], tf.int32, name) for name in names]

    def uniform(seed):
        # Philox by name: the automatic choice may be another on another device.
        return tf.random.stateless_uniform([size], tf.stack([seed, 0]), alg="philox")

    def generate(seed, temperature, *classes):
        noise = tf.map_fn(uniform, seed, fn_output_signature=tf.TensorSpec([size], tf.float32))
        given = {}
        for name, index in zip(names, classes):
            given[name] = tf.where((index >= 0) & (index < counts[name]), index, counts[name])
        asked = {name: given[name] for name in prior.conditions} if prior is not None else {}
        parts = latents_graph(codec, noise, asked, tf.maximum(temperature, 0.0))
        voice: tuple[tf.Tensor, ...] = ()
        if codec.speakers:
            speaker = tf.gather([*places, nobody], given["speaker"])
            voice = speaker, tf.fill(tf.shape(speaker), GUIDANCE)
        return {"waveform": codec.decode_graph(codec.pack([z[:, None] for z in parts]), -1, *voice)}

    def tried(waveform, results):
        rows = np.arange(len(waveform), dtype=np.int32)
        classes = {name: np.int32(rows % (counts[name] + 1)) for name in names}
        return {"seed": rows + 1, "temperature": np.linspace(1.0, 0.5, len(rows), dtype=np.float32), **classes}

    return generate, inputs, tried


def examples(table: list[Endpoint], waveform: np.ndarray) -> dict[str, tuple[Tensors, Tensors]]:
    """For each endpoint that can be tried, inputs made from ``waveform`` (batch, samples) and what it returns."""
    inputs: dict[str, Tensors] = {}
    results: dict[str, Tensors] = {}
    for endpoint in table:
        if endpoint.example is not None:
            inputs[endpoint.name] = endpoint.example(waveform, results)
            found = endpoint.function(*(tf.constant(inputs[endpoint.name][spec.name]) for spec in endpoint.inputs))
            results[endpoint.name] = {name: tensor.numpy() for name, tensor in found.items()}
    return {name: (inputs[name], results[name]) for name in results}


def latent_names(codec: Codec) -> list[str]:
    """Names of the latent tensors in requests and results: ``latent``, or ``latent_0``, ``latent_1``, ..."""
    count = len(codec.latent_shapes)
    return ["latent"] if count == 1 else [f"latent_{index}" for index in range(count)]
