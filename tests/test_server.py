"""The server: TensorFlow Serving's protocols, bad requests, versions that come and go, batches, an orderly end."""

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from serving_models import ROOT, Server, save

grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving")
pytest.importorskip("aiohttp")

from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from spectrovae import cli, models, representations, serving  # noqa: E402
from spectrovae.codec import Codec  # noqa: E402
from spectrovae.errors import InputError  # noqa: E402
from spectrovae.serving.server import config, engine, launch, manager, stand_in  # noqa: E402
from spectrovae.serving.server.batching import Batching, Queues  # noqa: E402
from spectrovae.serving.server.errors import RequestError  # noqa: E402
from spectrovae.serving.server.options import Options  # noqa: E402

MAX_BYTES = 1 << 20
RNG = np.random.default_rng(0)


def noise(batch: int, samples: int) -> np.ndarray:
    return (0.2 * RNG.standard_normal((batch, samples))).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """SavedModels to copy: ``1`` with gain 1 and warm-up records, ``2`` with gain 2."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder / "2", 2.0)
    first = save(folder / "1", 1.0)
    (first / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(first / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for samples in (10, 20):
            log = prediction_log_pb2.PredictLog(request=request("tiny", waveform=noise(1, samples)))
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A real export: a tiny VAE, untrained, loud."""
    representation = representations.LogSTFT(4000, n_fft=64, hop_length=32, phase_iterations=4, normalisation="per_bin")
    representation.adapt([noise(4, 480)])
    model = models.FAMILIES["vae"](representation.feature_shape(480), preset="tiny")
    model.initialise([representation(noise(40, 480))])
    codec = Codec(representation, model.encoder, model.decoder, family="vae", prior=model.prior, name="vae")
    return serving.export(codec, tmp_path_factory.mktemp("exported"), check=False)


@pytest.fixture(scope="module")
def folder(saved, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(saved / "1", folder / "tiny" / "1")
    shutil.copytree(saved / "1", folder / "moving" / "1")
    shutil.copytree(exported, folder / "vae" / "3")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    server = Server(
        folder, f"--max-bytes={MAX_BYTES}", "--read-timeout=1", "--call-timeout=8", "--poll=0.1", "--batch-threads=1"
    )
    yield server
    assert server.process.poll() is None, "a request ended the server"
    status, output = server.stop()
    assert status == 0
    assert "Traceback" not in "".join(server.log), "".join(server.log)
    assert output.strip().endswith("refused")


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def predict(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict


def request(model: str, signature: str = "", version: int | None = None, label: str = "", **inputs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    if label:
        message.model_spec.version_label = label
    for name, array in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return message


def arrays(response) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


# --- what is answered


def test_status_metadata_and_health(server, channel):
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/1"):
        assert server.rest(path) == (200, {"model_version_status": [available]})
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    wanted = get_model_status_pb2.GetModelStatusRequest()
    wanted.model_spec.name = "tiny"
    (found,) = stub.GetModelStatus(wanted).model_version_status
    assert (found.version, found.State.Name(found.state), found.status.error_code) == (1, "AVAILABLE", 0)

    status, metadata = server.rest("/v1/models/tiny/metadata")
    assert (status, metadata["model_spec"]) == (200, {"name": "tiny", "signature_name": "", "version": "1"})
    definition = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["inputs"]["waveform"] == {
        "name": "serving_default_waveform:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}] * 2, "unknown_rank": False},
    }
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "tiny"
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(asked)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(definitions)
    assert {"serving_default", "codes", "describe"} <= set(definitions.signature_def)
    assert answer.model_spec.version.value == 1

    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_rest_takes_rows_and_columns(server):
    post = server.rest
    path = "/v1/models/tiny:predict"
    for name in ({}, {"signature_name": "serving_default"}):
        assert post(path, {"instances": [[0.5, 0.25], [0, 1]]} | name) == (200, {"predictions": [[0.5, 0.25], [0, 1]]})
        assert post(path, {"instances": [{"waveform": [0.5]}]} | name) == (200, {"predictions": [[0.5]]})
        assert post(path, {"inputs": [[0.5]]} | name) == (200, {"outputs": [[0.5]]})
        assert post(path, {"inputs": {"waveform": [[0.5]]}} | name) == (200, {"outputs": [[0.5]]})
    assert post("/v1/models/tiny/versions/1:predict", {"inputs": [[0.5]]}) == (200, {"outputs": [[0.5]]})
    codes = {"signature_name": "codes"}
    assert post(path, codes | {"instances": [[1, 2, 3]]}) == (
        200, {"predictions": [{"codes": [1, 2, 3], "doubled": [2, 4, 6]}]},
    )  # fmt: skip
    assert post(path, codes | {"inputs": [[1, 2, 3]]}) == (
        200, {"outputs": {"codes": [[1, 2, 3]], "doubled": [[2, 4, 6]]}},
    )  # fmt: skip
    slow = {"signature_name": "slow", "inputs": {"waveform": [[0.5]], "seconds": 0.01}}
    assert post(path, slow) == (200, {"outputs": [[0.5]]})


def test_grpc_tells_which_version_answered_and_filters_outputs(predict):
    response = predict(request("tiny", "codes", codes=np.array([[1, 2, 3]], np.int32)))
    assert arrays(response)["doubled"].tolist() == [[2, 4, 6]]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 1, "codes")
    message = request("tiny", "codes", codes=np.array([[1, 2, 3]], np.int32))
    message.output_filter.append("codes")
    assert list(predict(message).outputs) == ["codes"]
    assert json.loads(arrays(predict(request("tiny", "describe")))["description"].item()) == {"gain": 1.0}
    # A tensor may also be given value by value instead of as bytes.
    message = request("tiny")
    message.inputs["waveform"].dtype = tf.float32.as_datatype_enum
    message.inputs["waveform"].float_val.extend([0.25, 0.5])
    for size in (1, 2):
        message.inputs["waveform"].tensor_shape.dim.add(size=size)
    assert arrays(predict(message))["waveform"].tolist() == [[0.25, 0.5]]


def test_warm_up_records_are_replayed(server):
    assert any("tiny version 1: available, 2 warm-up requests" in line for line in server.log)


@pytest.mark.parametrize(("batch", "samples"), [(1, 480), (3, 1), (2, 1000), (40, 30)])
def test_gives_what_the_savedmodel_gives(server, predict, exported, batch, samples):
    waveform = noise(batch, samples)
    loaded = tf.saved_model.load(str(exported))
    for signature in ("serving_default", "encode"):
        expected = {
            name: value.numpy() for name, value in loaded.signatures[signature](waveform=tf.constant(waveform)).items()
        }
        (name,) = expected
        scale = np.abs(expected[name]).max()
        found = arrays(predict(request("vae", signature, waveform=waveform)))
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4 * scale)
        body = {"inputs": {"waveform": waveform.tolist()}, "signature_name": signature}
        status, document = server.rest("/v1/models/vae:predict", body)
        assert status == 200
        np.testing.assert_allclose(np.float32(document["outputs"]), expected[name], atol=1e-4 * scale)


# --- what is refused

BAD_BODIES = {
    "not JSON": (b"waveform", "JSON Parse error"),
    "no body": (b"", "JSON Parse error"),
    "NaN": (b'{"inputs": [[NaN]]}', "no NaN"),
    "beyond float32": (b'{"inputs": [[1e39]]}', "waveform must be finite"),
    "a list": (b"[[0.5]]", "expected a JSON object"),
    "neither": (b"{}", "one of 'instances' .*'inputs'.*neither"),
    "both": (b'{"inputs": [[1]], "instances": [[1]]}', "received both"),
    "no rows": (b'{"instances": []}', "list of one or more"),
    "empty": (b'{"inputs": [[]]}', "waveform is empty"),
    "rank": (b'{"inputs": [0.5]}', r"waveform: float32 \(-1, -1\), received shape \[1\]"),
    "ragged": (b'{"inputs": [[0.5], [0.5, 0.5]]}', "differ in length"),
    "strings": (b'{"inputs": [["a"]]}', "must be float32, received strings"),
    "booleans": (b'{"inputs": [[true]]}', "must be float32, received booleans"),
    "null": (b'{"inputs": [[null]]}', "must be float32, received null"),
    "mixed": (b'{"inputs": [[0.5, null, {}, "a", true]]}', "booleans, null, objects, strings$"),
    # NumPy would take 100 GB, as much for each text as for the longest.
    "a long text": (b'{"inputs": [["' + b"x" * 500_000 + b'"' + b',"a"' * 50_000 + b"]]}", "received strings$"),
    "deep": (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", "waveform"),
    "a long name": (b'{"inputs": {"' + b"x" * 500_000 + b'": [[1]]}}', r"xxx\.\.\.$"),
    "missing": (b'{"inputs": {}}', "missing: waveform"),
    "unknown": (b'{"inputs": {"waveform": [[1]], "sound": [[1]]}}', "unknown: sound"),
    "rows that differ": (b'{"instances": [{"waveform": [1]}, {"sound": [1]}]}', "same inputs"),
    "signature": (b'{"inputs": [[1]], "signature_name": "no"}', 'key "no" not found. There are: codes, describe'),
    "signature's type": (b'{"inputs": [[1]], "signature_name": 1}', "must be a string"),
    "fractions": (b'{"inputs": [[0.5, 1, 2]], "signature_name": "codes"}', "must be int32, received numbers"),
    "too wide": (b'{"inputs": [[4294967296, 1, 2]], "signature_name": "codes"}', "beyond it"),
    "width": (b'{"inputs": [[1, 2]], "signature_name": "codes"}', r"int32 \(-1, 3\), received shape \[1, 2\]"),
    "no inputs": (b'{"inputs": {}, "signature_name": "describe"}', "gRPC"),
    "plain list for two": (b'{"inputs": [[1]], "signature_name": "slow"}', "expected an object"),
    "the model fails": (b'{"inputs": [[-1]], "signature_name": "strict"}', "negative sample"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_bodies_are_400_with_a_reason(server, case):
    body, reason = BAD_BODIES[case]
    status, document = server.rest("/v1/models/tiny:predict", body)
    assert (status, bool(re.search(reason, document["error"]))) == (400, True), document


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/models/absent", None, 404, "any versions of model absent; available: moving 1, tiny 1"),
        ("/v1/models/tiny/versions/9", None, 404, "version 9 of model tiny"),
        ("/v1/models/absent:predict", {}, 404, "Servable not found for request: Latest(absent)"),
        ("/v1/models/tiny/versions/9:predict", {}, 404, "Specific(tiny, 9)"),
        ("/v1/models/tiny/labels/stable:predict", {}, 400, "version label: stable"),
        ("/v1/models/tiny/versions/x:predict", {}, 404, "Malformed request"),
        ("/v2/health", None, 404, "Malformed request: GET /v2/health"),
        ("/v1/models/tiny:predict", None, 405, "expected POST"),
        ("/v1/models/tiny/metadata", {}, 405, "expected GET"),
        ("/v1/models/tiny:classify", {}, 501, "not :classify"),
    ],
)
def test_what_is_not_there(server, path, body, status, reason):
    found, document = server.rest(path, body)
    assert (found, reason in document["error"]) == (status, True), document


@pytest.mark.parametrize(
    ("inputs", "reason"), [("abc", "received shape []"), ([["a"], ["b", "c"]], "differ in length"), ([1], "numbers")]
)
def test_texts_are_checked_too(server, inputs, reason):
    body = {"signature_name": "describe", "inputs": inputs}
    status, document = server.rest("/v1/models/vae:predict", body)
    assert (status, reason in document["error"]) == (400, True), document
    status, document = server.rest("/v1/models/vae:predict", body | {"inputs": ["a", "bc"]})
    assert (status, len(document["outputs"])) == (200, 2)


def _claim(shape: list[int], **fields):
    """A tensor whose few bytes claim a shape."""
    message = request("tiny")
    proto = message.inputs["waveform"]
    proto.dtype = tf.float32.as_datatype_enum
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    for name, value in fields.items():
        if name.endswith("_val"):
            getattr(proto, name).extend(value)
        else:
            setattr(proto, name, value)
    return message


BAD_CALLS = {
    "dtype": (lambda: request("tiny", waveform=np.ones((1, 4))), "INVALID_ARGUMENT", "float32, received float64"),
    "rank": (lambda: request("tiny", waveform=np.ones(4, np.float32)), "INVALID_ARGUMENT", "received shape [4]"),
    "empty batch": (lambda: request("tiny", waveform=noise(0, 4)), "INVALID_ARGUMENT", "waveform is empty"),
    "no samples": (lambda: request("tiny", waveform=noise(2, 0)), "INVALID_ARGUMENT", "waveform is empty"),
    "NaN": (lambda: request("tiny", waveform=np.float32([[np.nan]])), "INVALID_ARGUMENT", "finite"),
    "infinite": (lambda: request("tiny", waveform=np.float32([[np.inf]])), "INVALID_ARGUMENT", "finite"),
    "missing": (lambda: request("tiny"), "INVALID_ARGUMENT", "missing: waveform"),
    "unknown": (lambda: request("tiny", waveform=noise(1, 2), a=1), "INVALID_ARGUMENT", "unknown: a"),
    "signature": (lambda: request("tiny", "no", waveform=noise(1, 2)), "FAILED_PRECONDITION", 'key "no" not found'),
    "model": (lambda: request("absent", waveform=noise(1, 2)), "NOT_FOUND", "Latest(absent)"),
    "version": (lambda: request("tiny", version=9, waveform=noise(1, 2)), "NOT_FOUND", "Specific(tiny, 9)"),
    "label": (lambda: request("tiny", label="x", waveform=noise(1, 2)), "INVALID_ARGUMENT", "version label: x"),
    "no model": (lambda: request("", waveform=noise(1, 2)), "INVALID_ARGUMENT", "model_spec.name"),
    "too large": (lambda: request("tiny", waveform=noise(1, MAX_BYTES // 4)), "RESOURCE_EXHAUSTED", "larger than max"),
    "claims much": (lambda: _claim([1 << 20, 1 << 20], float_val=[1.0]), "RESOURCE_EXHAUSTED", "over the limit"),
    "claims more": (lambda: _claim([1, 3], tensor_content=b"1234"), "INVALID_ARGUMENT", "does not hold 3 values"),
    "fewer values": (lambda: _claim([1, 3], float_val=[1.0, 2.0]), "INVALID_ARGUMENT", "does not hold 3 values"),
    "no values": (lambda: _claim([1, 3]), "INVALID_ARGUMENT", "does not hold 3 values"),
    "values of another type": (
        lambda: _claim([1, 3], int_val=[1, 2, 3]), "INVALID_ARGUMENT", "does not hold 3 values of float32",
    ),
    "many dimensions": (lambda: _claim([1] * 50_000, float_val=[1.0]), "INVALID_ARGUMENT", "received shape [1, 1"),
    "a long name": (
        lambda: request("tiny", waveform=noise(1, 2), **{"x" * 50_000: 1}), "INVALID_ARGUMENT", "unknown: xxx",
    ),
    "no such type": (lambda: _claim([1, 3], float_val=[1.0], dtype=200), "INVALID_ARGUMENT", "type 200"),
    "much to describe": (lambda: _many("describe", "request", tf.string), "INVALID_ARGUMENT", "stands for"),
    "much to generate": (lambda: _many("generate", "seed", tf.int32), "INVALID_ARGUMENT", "stands for"),
    "rows differ": (
        lambda: request("vae", "generate", seed=np.int32([1, 2]), temperature=np.float32([1.0])),
        "INVALID_ARGUMENT",
        "seed has 2, temperature has 1",
    ),
    "no shape": (lambda: _claim([-1, 3], float_val=[1.0]), "INVALID_ARGUMENT", "known shape"),
}  # fmt: skip


def _many(signature: str, name: str, kind: tf.DType):
    """A few bytes that claim to be 100 000 rows."""
    message = request("vae", signature, **{"temperature": np.ones(2, np.float32)} if name == "seed" else {})
    proto = message.inputs[name]
    proto.dtype = kind.as_datatype_enum
    proto.tensor_shape.dim.add(size=100_000)
    if name == "seed":
        proto.int_val.append(1)
    else:
        proto.string_val.append(b"")
    return message


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_get_their_code_and_a_reason(predict, case):
    make, code, reason = BAD_CALLS[case]
    with pytest.raises(grpc.RpcError) as raised:
        predict(make())
    assert (raised.value.code().name, reason in raised.value.details()) == (code, True), raised.value.details()
    assert arrays(predict(request("tiny", waveform=np.float32([[0.5]]))))["waveform"] == 0.5


def test_bytes_that_are_no_message_are_the_callers_fault(channel):
    for method in ("PredictionService/Predict", "PredictionService/GetModelMetadata", "ModelService/GetModelStatus"):
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(f"/tensorflow.serving.{method}")(b"\xff\xff\xff")
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_rest_limits_the_sound_that_is_made(server):
    body = {"signature_name": "generate", "inputs": {"seed": [1] * 9000, "temperature": [1.0] * 9000}}
    status, answer = server.rest("/v1/models/vae:predict", body)
    assert (status, "stands for 4320000 samples" in answer["error"]) == (400, True)


def test_digits_of_other_scripts_are_no_version(server):
    assert server.rest("/v1/models/tiny/versions/%D9%A1")[0] == 404
    assert server.rest("/v1/models/tiny/versions/1")[0] == 200


def test_pages_of_other_sites_do_not_run_the_model(server):
    body = b'{"inputs": [[0.5]]}'
    own = f"http://127.0.0.1:{server.rest_port}"
    for origin, expected in (
        (None, 200),
        (own, 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ):
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({} if origin is None else {"Origin": origin})
        assert server.rest("/v1/models/tiny:predict", body, **headers)[0] == expected


def _send(server, text: bytes, wait: float = 10.0) -> bytes:
    """What the REST port answers to some bytes."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=wait) as connection:
        connection.sendall(text)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def _header(length: int, *lines: str) -> bytes:
    path = "/v1/models/tiny:predict"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]).encode()


def test_a_body_of_one_gibibyte_is_refused_by_its_length(server):
    for lines in ((), ("Expect: 100-continue",)):
        answer = _send(server, _header(1 << 30, *lines))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"received 1073741824" in answer
    # Without a length it is refused when it has grown too large.
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
    connection.request("POST", "/v1/models/tiny:predict", iter([b" " * MAX_BYTES] * 2), encode_chunked=True)
    assert connection.getresponse().status == 413
    status, _ = server.rest("/v1/models/tiny:predict", json.dumps({"inputs": [[0.5]]}).encode(), Expect="100-continue")
    assert status == 200


def test_a_slow_client_and_half_a_body(server, channel):
    answer = _send(server, _header(100) + b'{"inputs": ')  # and the rest never comes
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not come within 1 s" in answer
    for text in (
        _header(100) + b'{"inputs": ',
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nHos",
        b"\x00\xff garbage\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
            connection.sendall(text)
    host, port = server.grpc.split(":")
    for text in (b"garbage", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x40\x00"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(text)
    assert server.rest("/v1/models/tiny:predict", {"inputs": [[0.5]]}) == (200, {"outputs": [[0.5]]})


def test_a_slow_model_is_given_up_and_the_server_goes_on(server, predict):
    body = {"signature_name": "slow", "inputs": {"waveform": [[0.5]], "seconds": 9.0}}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.rest, "/v1/models/tiny:predict", body)
        with pytest.raises(grpc.RpcError) as raised:
            predict(request("tiny", "slow", waveform=noise(1, 2), seconds=np.float64(9.0)))
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert server.rest("/v1/models/tiny:predict", {"inputs": [[0.5]]})[0] == 200
        status, document = answer.result()
    assert (status, document["error"]) == (504, "the model took longer than 8 s")


# --- batches


def test_equal_shapes_are_computed_together_and_no_others(predict):
    def call(index):
        waveform = np.full((1 + index % 2, (100, 200)[index % 4 // 2]), index, np.float32)
        rows = arrays(predict(request("tiny", "rows", waveform=waveform)))["rows"]
        assert rows.shape == (len(waveform),)
        return rows[0]

    with ThreadPoolExecutor(48) as pool:
        assert max(pool.map(call, range(300))) > 4


def test_a_batch_gives_what_each_gives_alone(predict):
    """The tiny VAE, sixteen waveforms of two lengths: one after the other, and at the same time."""
    waveforms = [noise(1, (480, 700)[index % 2]) for index in range(16)]

    def call(waveform):
        return arrays(predict(request("vae", waveform=waveform)))["waveform"]

    alone = [call(waveform) for waveform in waveforms]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(call, waveforms), alone):
                np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_one_that_fails_in_the_model_does_not_fail_its_neighbours(predict):
    def call(index):
        waveform = np.full((1, 50), -1.0 if index % 5 == 0 else index, np.float32)
        try:
            return float(arrays(predict(request("tiny", "strict", waveform=waveform)))["waveform"][0, 0])
        except grpc.RpcError as error:
            return error.code().name, "negative sample" in error.details()

    refused = ("INVALID_ARGUMENT", True)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(call, range(100))) == [index if index % 5 else refused for index in range(100)]


def test_mixed_good_and_bad_requests_lose_none(server, predict):
    bodies, calls = list(BAD_BODIES.values()), list(BAD_CALLS.values())

    def one(index):
        value = index / 256
        kind = index % 4
        if kind == 0:
            return server.rest("/v1/models/tiny:predict", {"inputs": [[value]]}) == (200, {"outputs": [[value]]})
        if kind == 1:
            return server.rest("/v1/models/tiny:predict", bodies[index % len(bodies)][0])[0] == 400
        try:
            if kind == 2:
                found = arrays(predict(request("tiny", waveform=np.full((1, 1 + index % 50), value, np.float32))))
                return bool((found["waveform"] == np.float32(value)).all()) and found["waveform"].size == 1 + index % 50
            make, code, _ = calls[index % len(calls)]
            predict(make())
        except grpc.RpcError as error:
            return kind == 3 and error.code().name == code
        return False

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(200))) == [True] * 200


def test_queues_go_to_one_key_at_a_time_and_are_not_more_than_counted():
    queues = Queues(2)
    with queues.lend("a") as (a, _), queues.lend("b") as (b, _), queues.lend("c") as (c, _):
        assert {a, b} == {"queue-0", "queue-1"}
        assert c is None
        with queues.lend("a") as again, queues.lend("b") as other:
            assert (again, other) == ((a, 4), (b, 5))  # and so many calls are in flight
    with queues.lend("a"), queues.lend("c") as (c, _):
        assert c == b  # the one not in use
    with queues.lend("c") as kept:
        assert kept == (c, 1)
    queues = Queues(2, alone=1)
    with queues.lend("a") as (first, _), queues.lend("a") as (second, _):
        assert (first is None, second is None) == (True, False)
    with queues.lend("a") as (first, _):
        assert first is None


@pytest.mark.parametrize(("users", "at_once"), [(3, False), (2, True)])
def test_a_batch_waits_for_others_only_where_many_ask(users, at_once, monkeypatch):
    """Which timeout the op is given, and that calls of one kind do not wait in the queue of the other."""
    given = {}
    monkeypatch.setattr("tensorflow.raw_ops.BatchFunction", lambda **attributes: given.update(attributes))
    function = tf.function(lambda x: [x], input_signature=[tf.TensorSpec([None])]).get_concrete_function()
    Batching(max_batch=2, timeout=0.02).run("queue-0", users, function, [tf.zeros([1])])
    assert given["batch_timeout_micros"] == (0 if at_once else 20_000)
    assert (given["batching_queue"] == "queue-0") == at_once


# --- versions


def _until(server, path: str, condition, seconds: float = 20.0) -> dict:
    """The status of versions, by number, once it is as it should be."""
    end = time.monotonic() + seconds
    while True:
        _, document = server.rest(path)
        states = {each["version"]: each for each in document.get("model_version_status", ())}
        if condition({number: each["state"] for number, each in states.items()}):
            return states
        assert time.monotonic() < end, document
        time.sleep(0.05)


def test_versions_come_and_go_and_a_damaged_one_changes_nothing(server, folder, saved):
    path, home = "/v1/models/moving", folder / "moving"

    def gain():
        return server.rest(f"{path}:predict", {"inputs": [[1.0]]})[1]["outputs"][0][0]

    assert gain() == 1.0
    slow = {"signature_name": "slow", "inputs": {"waveform": [[0.5]], "seconds": 2.0}}
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(server.rest, f"{path}:predict", slow)
        time.sleep(0.3)
        shutil.copytree(saved / "2", folder / ".staged")
        os.rename(folder / ".staged", home / "2")
        _until(server, path, {"1": "UNLOADING", "2": "AVAILABLE"}.__eq__)
        assert gain() == 2.0
        assert begun.result() == (200, {"outputs": [[0.5]]})  # by the version that it began with
    _until(server, path, {"1": "END", "2": "AVAILABLE"}.__eq__)
    assert server.rest(f"{path}/versions/1:predict", {"inputs": [[1.0]]})[0] == 404

    (home / "3").mkdir()
    (home / "3" / "saved_model.pb").write_bytes(b"not a model")
    states = _until(server, path, {"1": "END", "2": "AVAILABLE", "3": "END"}.__eq__)
    assert states["3"]["status"]["error_code"] == "UNKNOWN"
    assert "cannot load" in states["3"]["status"]["error_message"]
    assert gain() == 2.0
    shutil.rmtree(home / "3")
    shutil.copytree(saved / "1", folder / ".staged")
    os.rename(folder / ".staged", home / "3")
    _until(server, path, {"1": "END", "2": "END", "3": "AVAILABLE"}.__eq__)
    assert gain() == 1.0
    shutil.rmtree(home)
    _until(server, path, {"1": "END", "2": "END", "3": "END"}.__eq__)
    assert server.rest(f"{path}:predict", {"inputs": [[1.0]]})[0] == 404
    shutil.copytree(saved / "2", folder / ".staged")
    home.mkdir()
    os.rename(folder / ".staged", home / "1")
    _until(server, path, lambda states: states["1"] == "AVAILABLE")
    assert gain() == 2.0


class Loaded:
    """Stands for a loaded model where only versions matter."""

    warmed = 0

    def __init__(self, path: Path):
        if (path / "damaged").exists():
            raise OSError("damaged")


def test_models_config_says_names_versions_and_labels(tmp_path):
    for name in ("first/1", "first/2", "first/3", "second/7"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models.config").write_text(
        'model_config_list {\n  config { name: "a" base_path: "/models/first" model_platform: "tensorflow"\n'
        "    model_version_policy { specific { versions: 1 versions: 3 } }\n"
        '    version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 3 } }\n'
        f'  config {{ name: "b" base_path: "{tmp_path}/second" model_platform: "tensorflow" }}\n}}\n'
    )

    async def check():
        with ThreadPoolExecutor(1) as pool:
            held = manager.Manager(tmp_path, Loaded, pool, 1.0)
            await held.refresh()
            assert [(each.model, each.number) for each in held.available()] == [("a", 1), ("a", 3), ("b", 7)]
            assert held.take(manager.Wanted("a")).number == 3
            assert held.take(manager.Wanted("a", label="stable")).number == 1
            assert [each.number for each in held.versions(manager.Wanted("a", label="canary"))] == [3]
            # What is written for TensorFlow Serving says the same.
            copy = tmp_path / "copy"
            copy.mkdir()
            (copy / "models.config").write_text(config.as_text(config.models(tmp_path)))
            assert config.models(copy) == config.models(tmp_path)
            with pytest.raises(RequestError, match="label: none; labels of a: canary, stable"):
                held.take(manager.Wanted("a", label="none"))

    asyncio.run(check())
    (tmp_path / "models.config").write_text("model_config_list { config { nome: 1 } }")
    with pytest.raises(InputError, match=r"models.config is no configuration .*nome"):
        config.models(tmp_path)


# --- beginning and end


def test_bad_options_are_one_line_errors(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path / "absent")]) == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "1").mkdir()
    for hint, folder in (("serve the folder above", tmp_path), ("expected NAME/VERSION", tmp_path / "1")):
        with pytest.raises(InputError, match=hint):
            config.check(folder)
    for number in ("0", "1", "9" * 18, "9" * 19, "9" * 30, "\u0661", "1a"):
        (tmp_path / number).mkdir(exist_ok=True)
        assert config.is_version(tmp_path / number) == (number.isascii() and number.isdigit() and len(number) < 19)
    for bad in ({"rest_port": -1}, {"grpc_port": 65536}, {"poll": 0}, {"call_timeout": -1.0}, {"batch_timeout": -1.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Options(tmp_path, **bad)


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(launch.NEEDED, "not_installed_at_all", "not-installed")
    with pytest.raises(InputError, match=r"serve needs not-installed: pip install 'spectrovae\[serve\]'"):
        launch.serve(Options(tmp_path), stand_in=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "192.168.0.1"])
def test_tensorflow_serving_is_refused_where_it_would_listen_beyond_the_host(folder, host):
    with pytest.raises(InputError, match=r"all interfaces.*--host 0\.0\.0\.0"):
        launch.command("tensorflow_model_server", Options(folder, host=host))


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
                           ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example", False)],
)  # fmt: skip
def test_loopback(tmp_path, host, loopback):
    assert Options(tmp_path, host=host).loopback == loopback


def test_addresses_of_ipv6(tmp_path):
    async def listen():
        rest, calls = stand_in.web.AppRunner(stand_in.web.Application()), grpc.aio.server()
        await rest.setup()
        try:
            ports = await stand_in._listen(rest, calls, Options(tmp_path, "::1", 0, 0))
            for port in ports:
                socket.create_connection(("::1", port), timeout=10).close()
        finally:
            await asyncio.gather(rest.cleanup(), calls.stop(0))

    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    asyncio.run(listen())


def test_a_folder_that_cannot_be_read_is_no_model(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    (tmp_path / "lost+found").mkdir()
    look = Path.iterdir

    def refused(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert set(config.models(tmp_path)) == {"tiny"}
    os.mkfifo(tmp_path / config.CONFIG)
    with pytest.raises(InputError, match="is no file"):
        config.models(tmp_path)


def test_the_folder_is_watched_whatever_happens(tmp_path):
    """An error of any kind at one look does not end the looking."""
    looks = []

    class Failing(manager.Manager):
        async def refresh(self):
            looks.append(1)
            raise (RuntimeError, OSError, InputError, KeyError)[len(looks) % 4]("look")

    async def watch():
        watching = asyncio.ensure_future(Failing(tmp_path, None, None, 0.0).watch())
        while len(looks) < 6:
            await asyncio.sleep(0)
            assert not watching.done()
        watching.cancel()

    asyncio.run(asyncio.wait_for(watch(), 20))


def test_requests_are_counted_before_they_are_read():
    async def check():
        calls = engine.Engine(None, threads=1, timeout=1.0)
        async with calls.admitted(), calls.admitted():
            with pytest.raises(RequestError, match="try again"):
                async with calls.admitted():
                    pass
        async with calls.admitted():
            pass
        calls.close()

    asyncio.run(check())


def test_runs_tensorflow_serving_where_it_is_installed(folder, tmp_path):
    """A program of that name on the path stands for it: what matters is what it is started with."""
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
    program.chmod(0o755)
    finished = subprocess.run(
        [sys.executable, "-m", "spectrovae", "serve", folder, "--rest-port=1234", "--call-timeout=5", "--batching",
         "--host=0.0.0.0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = dict(line.partition("=")[::2] for line in finished.stdout.splitlines())
    assert (given["--port"], given["--rest_api_port"], given["--rest_api_timeout_in_ms"]) == ("8500", "1234", "5000")
    written = Path(given["--model_config_file"])
    try:
        copy = tmp_path / "copy"
        copy.mkdir()
        shutil.copy(written, copy / "models.config")
        bases = {name: model.base for name, model in config.models(copy).items()}
        assert bases == {name: folder / name for name in ("moving", "tiny", "vae")}
        assert "max_batch_size { value: 16 }" in Path(given["--batching_parameters_file"]).read_text()
        assert "--enable_batching" in given
        assert "without authentication" in finished.stderr
    finally:
        written.unlink()
        Path(given["--batching_parameters_file"]).unlink()


def test_without_keras_and_answers_what_has_come_before_it_ends(folder, fresh_process):
    """SIGTERM while a request is being answered: it is, new ones are refused, and no Keras was ever imported."""
    output = fresh_process(
        """
import http.client, json, logging, os, re, signal, sys, threading, time, urllib.request
from spectrovae.serving.server import launch
from spectrovae.serving.server.options import Options

class Ready(logging.Handler):
    def emit(self, record):
        found = re.search(r"http://127.0.0.1:(\\d+)/", record.getMessage())
        if found:
            asking.append(threading.Thread(target=ask, args=(int(found[1]),)))
            asking[0].start()

answers, asking = [], []

def ask(port):
    body = json.dumps({"signature_name": "slow", "inputs": {"waveform": [[0.5]], "seconds": 1.5}}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models/tiny:predict", body)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    threading.Timer(1.0, knock, (port,)).start()
    answers.append(json.loads(urllib.request.urlopen(request).read()))

def knock(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/tiny")
        answers.append("open")
    except OSError:
        answers.append("closed")

logging.getLogger("spectrovae").addHandler(Ready())
result = launch.serve(Options(sys.argv[1], rest_port=0, grpc_port=0), stand_in=True)
asking[0].join()
print(json.dumps([answers, result, [name for name in sys.modules if name.split(".")[0] in ("keras", "tf_keras")]]))
""",
        folder,
    )
    answers, result, keras = json.loads(output)
    assert answers == ["closed", {"outputs": [[0.5]]}]
    assert result == {"answered": 1, "refused": 0}
    assert keras == []


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(server, folder):
    finished = subprocess.run(
        [sys.executable, "-m", "spectrovae", "serve", str(folder), "--stand-in", f"--rest-port={server.rest_port}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 2
    assert f"cannot listen at 127.0.0.1:{server.rest_port}" in finished.stderr.splitlines()[-1]
