"""Encoder and decoder alone for other runtimes: ONNX and LiteRT.

Audio processing stays outside: these runtimes lack parts of it (ONNX the magnitude of complex numbers, LiteRT the
STFT). Whoever runs such a model computes features and inverts them, as a :class:`Representation` does, by the settings
in ``spectrovae.json``.

FOLDER/NAME/onnx/
  encoder.onnx  decoder.onnx   features (batch, bins, frames, channels) of one segment -> latents, and back
  spectrovae.json              what the SavedModel's description says, and parity with the Keras model
"""

import importlib
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spectrovae import files
from spectrovae.codec import Codec, golden_waveforms
from spectrovae.errors import InputError, ParityError
from spectrovae.serving.deployment import check_target, checked_name
from spectrovae.serving.endpoints import Tensors, latent_names

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}
TOLERANCE = 1e-3  # of the peak: the kernels are others'
OPSET = 17
DESCRIPTION = Path("spectrovae.json")


def export_parts(
    codec: Codec | str | os.PathLike,
    folder: str | os.PathLike,
    target: str,
    *,
    name: str | None = None,
    force: bool = False,
) -> Path:
    """Write encoder and decoder to ``folder/name/target``, each compared with Keras in the target's own runtime.

    Inputs and outputs are named ``features``, and ``latent`` or ``latent_0``, ``latent_1``, ...: any batch, one segment
    each.

    Args:
        codec: a codec, or the path of a bundle.
        target: ``"onnx"`` (needs the extra ``onnx``) or ``"litert"`` (the extra of this name, where
            TensorFlow has no interpreter any more).
        name: of the model, by default the codec's.
        force: replace an earlier one.

    Returns:
        The folder ``folder/name/target``; nothing was written if an error is raised.

    Raises:
        InputError: a package that is missing, a model the target cannot express, a folder that exists.
        ParityError: a result differs from Keras's by more than 1e-3 (-60 dB) of its peak.
    """
    if target not in SUFFIXES:
        raise InputError(f"target must be one of {', '.join(SUFFIXES)}, received {target!r}")
    source, codec = codec, codec if isinstance(codec, Codec) else Codec.load(codec)
    name = checked_name(codec.name if name is None else name)
    path = Path(folder) / name / target
    check_target(path, source, DESCRIPTION, force)
    names = latent_names(codec)
    features = tf.TensorSpec([None, *codec.feature_shape], tf.float32, name="features")
    latents = [
        tf.TensorSpec([None, *shape], kind, name=latent)
        for latent, shape, kind in zip(names, codec.latent_shapes, codec.latent_types)
    ]

    def encoder(features):
        found = zip(names, tf.nest.flatten(codec.encoder(features)), codec.latent_types)
        return {latent: tf.cast(z, kind) for latent, z, kind in found}

    def decoder(*latents):
        return {"features": tf.cast(codec.decoder(codec.pack(list(latents))), tf.float32)}

    wave = golden_waveforms(codec.segment_samples, codec.sample_rate)
    given: Tensors = {"features": codec.representation(wave).numpy()}
    parity = {}
    with files.replacing_folder(path, force=force, beside=path.parent) as stage:
        for part, specs in ((encoder, [features]), (decoder, latents)):
            function = tf.function(part, input_signature=specs, autograph=False)
            expected = {key: value.numpy() for key, value in function(*map(tf.constant, given.values())).items()}
            file = stage / f"{part.__name__}{SUFFIXES[target]}"
            try:
                run = {"onnx": _onnx, "litert": _litert}[target](function, specs, file)
            except InputError:
                raise
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise InputError(f"{target} cannot express the {part.__name__} of {codec.name}: {reason}") from error
            parity[part.__name__] = _compared(run, given, expected, f"{part.__name__} of {codec.name} in {target}")
            given = expected
        files.write_json(stage / DESCRIPTION, codec.description() | {"name": name, "parity": parity})
    return path


def _onnx(function, specs: list[tf.TensorSpec], file: Path) -> Callable[..., Tensors]:
    tf2onnx, onnxruntime = _package("tf2onnx"), _package("onnxruntime")
    tf2onnx.convert.from_function(function, input_signature=specs, opset=OPSET, output_path=str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **tensors: dict(zip(names, session.run(names, tensors)))


def _litert(function, specs: list[tf.TensorSpec], file: Path) -> Callable[..., Tensors]:
    # By way of a SavedModel, as only that hands on the names of inputs and outputs.
    module = tf.Module()
    module.weights = list(function.get_concrete_function().graph.variables)
    with tempfile.TemporaryDirectory() as temporary:
        tf.saved_model.save(module, temporary, signatures=function.get_concrete_function())
        file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(temporary).convert())
    try:  # TensorFlow's own interpreter is on its way out
        interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        interpreter = tf.lite.Interpreter
    return interpreter(model_path=str(file)).get_signature_runner()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"this needs {name}: pip install 'spectrovae[onnx]'") from error


def _compared(run: Callable[..., Tensors], given: Tensors, expected: Tensors, what: str) -> float:
    """Largest difference relative to the peak in dB, of a batch and of its last example alone."""
    worst = 0.0
    for rows in (slice(None), slice(-1, None)):
        found = run(**{name: tensor[rows] for name, tensor in given.items()})
        if set(found) != set(expected):
            raise ParityError(f"the {what} returns {sorted(found)}, expected {sorted(expected)}")
        for name, whole in expected.items():
            value, peak = whole[rows], max(float(np.max(np.abs(whole))), 1e-6)
            same = found[name].shape == value.shape
            difference = float(np.max(np.abs(found[name] - value))) / peak if same else math.inf
            if not difference <= TOLERANCE:
                raise ParityError(
                    f"the {what} differs from Keras by {difference:.2g} of its peak, allowed {TOLERANCE:g}"
                )
            worst = max(worst, difference)
    return 20.0 * math.log10(max(worst, 1e-10))
