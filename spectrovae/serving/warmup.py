"""Requests that TF Serving replays when it loads a version, so that no client waits for what the first one sets up.

TF Serving reads ``assets.extra/tf_serving_warmup_requests``: ``PredictionLog`` messages in a TFRecord file. Their
classes come with tensorflow-serving-api alone; the three messages needed here are few enough to be written in
protobuf's wire format, by the field numbers of ``prediction_log.proto``, ``predict.proto`` and ``model.proto``.
"""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from spectrovae.serving.endpoints import Tensors

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


def write_warmup(path: str | os.PathLike, name: str, requests: dict[str, Tensors]) -> None:
    """Write one record for each signature.

    Args:
        path: folder of the SavedModel.
        name: of the served model.
        requests: signature -> named input tensors.
    """
    file = Path(path) / WARMUP
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(os.fspath(file)) as writer:
        for signature, tensors in requests.items():
            writer.write(prediction_log(name, signature, tensors))


def prediction_log(name: str, signature: str, tensors: dict[str, np.ndarray]) -> bytes:
    """A serialised ``PredictionLog`` with one ``PredictRequest``."""
    model_spec = _field(1, name.encode()) + _field(3, signature.encode())  # name, signature_name
    inputs = (
        _field(2, _field(1, key.encode()) + _field(2, tf.make_tensor_proto(tensor).SerializeToString()))
        for key, tensor in tensors.items()
    )
    request = _field(1, model_spec) + b"".join(inputs)
    return _field(6, _field(1, request))  # PredictionLog.predict_log.request


def _field(number: int, payload: bytes) -> bytes:
    """A field of bytes, text or a message: its number and wire type 2, the length, the payload."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    head = []
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])
