"""Call a served model, over REST or gRPC: TensorFlow Serving, or the stand-in of ``spectrovae serve``.

with Client("http://127.0.0.1:8501/v1/models/digits") as client:
    sound = client.reconstruct(waveform, 8000)
"""

import functools
import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np

from spectrovae import overlap
from spectrovae.errors import InputError, ServerError

OVERLAP = 0.5  # seconds that neighbouring chunks of a long file share
FADE = 0.03
_PATH = re.compile(
    r"/(?:v1/models/)?(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?/?"
)
_FORMS = "http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME, with /versions/N or /labels/LABEL"
_AGAIN = {408, 429, 502, 503}  # of HTTP: the body came too slowly, too many requests, a gateway's own, no answer yet


class Client:
    """A served model.

    Args:
        url: ``http://HOST:PORT/v1/models/NAME`` (or ``https``), or ``grpc://HOST:PORT/NAME``, of the version that the
            server chooses; ``/versions/N`` or ``/labels/LABEL`` after it choose another.
        timeout: seconds that one attempt may take.
        retries: attempts after the first, where no server answers or it is busy; not where it has not answered in
            time, as it may still compute. They wait 0.2 s, then twice as long each time, and up to half as long
            again at random.
        chunk: seconds of sound in one request; longer sound is sent in overlapping chunks.

    Raises:
        InputError: a URL of another form, or packages that are not installed.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, retries: int = 4, chunk: float = 20.0):
        if url.startswith("grpcs:"):
            raise InputError(f"gRPC is spoken without encryption here; for TLS give an https:// URL, received {url!r}")
        parts = _split(url)
        found = _PATH.fullmatch(parts.path) if parts else None
        if parts is None or parts.scheme not in ("http", "https", "grpc") or not found:
            raise InputError(f"expected the URL of a model, {_FORMS}; received {url!r}")
        for name, value, least in (("timeout", timeout, 0.0), ("chunk", chunk, 2.0 * OVERLAP)):
            if not value > least:
                raise InputError(f"{name} must be above {least:g} s, received {value:g}")
        if retries < 0:
            raise InputError(f"retries must not be negative, received {retries}")
        self.url, self.name = url, unquote(found["name"])
        self.version = int(found["version"]) if found["version"] else None
        self.label = unquote(found["label"]) if found["label"] else None
        self.timeout, self.retries, self.chunk = timeout, retries, chunk
        protocol = _Grpc if parts.scheme == "grpc" else _Rest
        self._protocol = protocol(self, parts)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._protocol.close()

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What the model's ``describe`` says: ``sample_rate`` in Hz, ``representation``, ``versions`` and so on.

        Raises:
            ServerError: see :meth:`predict`; or the model does not describe itself.
        """
        answer = self.predict("describe", request=np.array([""], object))
        try:
            description = json.loads(np.ravel(answer["description"])[0])
            return description | {"sample_rate": int(description["sample_rate"])}
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ServerError(f"{self.url} is no model that spectrovae exported: {error}") from error

    @property
    def sample_rate(self) -> int:
        """Of the model's waveforms, in Hz."""
        return self.description["sample_rate"]

    def predict(self, signature: str = "serving_default", **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of one request.

        Args:
            signature: ``serving_default``, ``features``, ``encode``, ``decode``, ``reconstruct``, ``convert``,
                ``generate`` or ``describe``.
            **inputs: by name, each (batch, ...).

        Raises:
            ServerError: no server there, no such model or version, a request that the server refuses, or no answer
                after all retries.
        """
        return self._again(lambda: self._protocol.predict(signature, inputs))

    def reconstruct(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """What the model makes of a waveform (samples,), as long as it was.

        Raises:
            InputError: another sample rate than the model's, or another shape.
            ServerError: see :meth:`predict`.
        """
        waveform = np.asarray(waveform, np.float32)
        if sample_rate != self.sample_rate:
            raise InputError(
                f"{self.name} takes {self.sample_rate} Hz, received {sample_rate} Hz; "
                f"use spectrovae.audio.resample(waveform, {sample_rate}, {self.sample_rate})"
            )
        if waveform.ndim != 1 or not len(waveform):
            raise InputError(f"expected a waveform (samples,), received shape {waveform.shape}")
        return np.concatenate(list(self.stream([waveform])))

    def stream(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """What the model makes of a waveform that comes in pieces (samples,) at the model's rate, as pieces.

        One chunk is asked for at a time, and chunks are cross-faded where they are most alike; memory does not grow
        with the length.

        Raises:
            InputError, ServerError: see :meth:`reconstruct`.
        """
        step, shared = round(self.chunk * self.sample_rate), round(OVERLAP * self.sample_rate)
        windows = overlap.windows((np.asarray(piece, np.float32)[None] for piece in pieces), step, 0, shared)
        answers = (self.predict(waveform=window)["waveform"][0] for window, _, _ in windows)
        return overlap.joined(answers, step, round(FADE * self.sample_rate))

    def _again(self, request: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        attempts = 1
        while True:
            try:
                return request()
            except _Temporary as error:
                if attempts > self.retries:
                    tried = f" ({attempts} attempts)" if attempts > 1 else ""
                    raise ServerError(f"{error}{tried}") from error
            time.sleep(0.1 * 2.0**attempts * (1.0 + 0.5 * random.random()))
            attempts += 1


class _Temporary(Exception):
    """The same request may succeed later."""


class _Rest:
    def __init__(self, client: Client, parts):
        requests = _module("requests")
        self.client, self.errors = client, requests.exceptions
        where = f"/versions/{client.version}" if client.version else f"/labels/{client.label}" if client.label else ""
        self.url = f"{parts.scheme}://{parts.netloc}/v1/models/{client.name}{where}:predict"
        self.session = requests.Session()

    def close(self) -> None:
        self.session.close()

    def predict(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        body = {"signature_name": signature, "inputs": {name: _plain(array) for name, array in inputs.items()}}
        try:
            answer = self.session.post(self.url, data=_dumps(body), timeout=self.client.timeout)
        except self.errors.Timeout as error:
            if isinstance(error, self.errors.ConnectTimeout):
                raise _Temporary(_absent(self.url)) from error
            raise ServerError(_late(self.client)) from error  # the server still computes: the same again is more load
        except self.errors.ConnectionError as error:
            raise _Temporary(_absent(self.url)) from error
        except self.errors.RequestException as error:  # an answer that is cut off, or a redirection to nowhere
            raise _Temporary(f"{self.url} does not answer as TensorFlow Serving does: {error}") from error
        if answer.status_code != 200:
            text = f"{self.url}: {answer.status_code}, {_message(answer)}"
            raise (_Temporary if answer.status_code in _AGAIN else ServerError)(text)
        try:
            outputs = _loads(answer.content)["outputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{self.url} does not answer as TensorFlow Serving does; expected {_FORMS}") from error
        # A single output goes without its name, which the signature's definition has.
        named = outputs if isinstance(outputs, dict) else {self._only_output(signature): outputs}
        return {name: _array(value) for name, value in named.items()}

    @functools.cached_property
    def _definitions(self) -> dict:
        answer = self.session.get(self.url.removesuffix(":predict") + "/metadata", timeout=self.client.timeout)
        return answer.json()["metadata"]["signature_def"]["signature_def"]

    def _only_output(self, signature: str) -> str:
        try:
            return next(iter(self._definitions[signature]["outputs"]))
        except (ValueError, KeyError, TypeError, self.errors.RequestException) as error:
            raise _Temporary(f"{self.url} has no metadata: {error}") from error


class _Grpc:
    def __init__(self, client: Client, parts):
        self.grpc = _module("grpc")
        service = _module("tensorflow_serving.apis.prediction_service_pb2_grpc")
        self.messages = _module("tensorflow_serving.apis.predict_pb2")
        self.client, self.address = client, parts.netloc
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = self.grpc.insecure_channel(parts.netloc, options=unlimited)
        self.stub = service.PredictionServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def predict(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import tensorflow as tf

        request = self.messages.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.client.name, signature
        if self.client.version:
            request.model_spec.version.value = self.client.version
        if self.client.label:
            request.model_spec.version_label = self.client.label
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        codes = self.grpc.StatusCode
        try:
            answer = self.stub.Predict(request, timeout=self.client.timeout)
        except self.grpc.RpcError as error:
            text = f"{self.client.url}: {error.code().name}, {error.details()}"
            if error.code() == codes.DEADLINE_EXCEEDED:
                text = _late(self.client)
            elif error.code() == codes.UNAVAILABLE and "connect" in (error.details() or "").lower():
                text = _absent(self.client.url)
            again = (codes.UNAVAILABLE, codes.RESOURCE_EXHAUSTED, codes.ABORTED)
            raise (_Temporary if error.code() in again else ServerError)(text) from error
        return {name: tf.make_ndarray(proto) for name, proto in answer.outputs.items()}


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None where it has no host, or a port that cannot be."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _late(client: Client) -> str:
    return f"{client.url} did not answer within {client.timeout:g} s; allow more (--timeout), or send less (--chunk)"


def _absent(url: str) -> str:
    return f"no server answers at {url}; start one with spectrovae serve FOLDER, and check host and port"


def _message(answer) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.reason


def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name.split('.')[0]} is not installed: pip install 'spectrovae[serve]'") from error


def _plain(array: np.ndarray) -> Any:
    array = np.ascontiguousarray(array)
    return array.tolist() if array.dtype == object else array


def _dumps(value: Any) -> bytes:
    orjson = _module("orjson")
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _loads(body: bytes) -> Any:
    return _module("orjson").loads(body)


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    kind = {"U": object, "i": np.int32, "u": np.int32}.get(array.dtype.kind, np.float32)
    return array.astype(kind)  # null stands for NaN
