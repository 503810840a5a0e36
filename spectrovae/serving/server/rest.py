"""TensorFlow Serving's REST protocol: status, metadata, predict."""

import asyncio
import functools
import inspect
import json
import logging
import re

from aiohttp import web
from google.protobuf import json_format

from spectrovae.serving.server import tensors
from spectrovae.serving.server.engine import Engine
from spectrovae.serving.server.errors import RequestError, invalid
from spectrovae.serving.server.manager import Version, Wanted
from spectrovae.serving.server.options import Options

log = logging.getLogger(__name__)

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<number>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_MODEL + r":(?P<verb>predict|classify|regress)")
_LOOK = re.compile(_MODEL + r"(?P<metadata>/metadata)?")
# Fields that are not set are written too, as TensorFlow Serving does; protobuf 5 calls the option by another name.
_WITH_DEFAULTS = {
    name: True
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToDict).parameters
}


class Rest:
    """The handler of all requests.

    Args:
        engine: that answers them.
        options: the limits.
    """

    def __init__(self, engine: Engine, options: Options):
        self._engine = engine
        self._options = options

    def application(self) -> web.Application:
        """An application of aiohttp."""
        application = web.Application(client_max_size=self._options.max_bytes)
        application.router.add_route("*", "/{path:.*}", self.handle, expect_handler=self._expect)
        return application

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request, a refused one with its status and ``{"error": message}``."""
        try:
            return web.Response(body=await self._answer(request), content_type="application/json")
        except RequestError as error:
            return _refusal(error)
        except Exception:
            log.exception("REST request failed")
            return _refusal(RequestError("INTERNAL", "the server failed; its log says why"))

    async def _answer(self, request: web.Request) -> bytes:
        path = request.path
        if match := _CALL.fullmatch(path):
            if request.method != "POST":
                raise RequestError("INVALID_ARGUMENT", f"expected POST {path}, received {request.method}", 405)
            if match["verb"] != "predict":
                raise RequestError("UNIMPLEMENTED", f"this stand-in answers :predict, not :{match['verb']}")
            self._check_origin(request)
            async with self._engine.admitted():  # before the body takes memory
                body = await self._read(request)
                return await self._engine.call(_wanted(match), functools.partial(_predict, body))
        if match := _LOOK.fullmatch(path):
            if request.method not in ("GET", "HEAD"):
                raise RequestError("INVALID_ARGUMENT", f"expected GET {path}, received {request.method}", 405)
            if match["metadata"]:
                return await self._engine.call(_wanted(match), _metadata)
            return _dumps(
                {"model_version_status": [_status(each) for each in self._engine.manager.versions(_wanted(match))]}
            )
        raise RequestError(
            "NOT_FOUND",
            f"Malformed request: {request.method} {path}; expected /v1/models/NAME, with /versions/N or /labels/L, "
            "and /metadata or :predict",
        )

    def _check_origin(self, request: web.Request) -> None:
        """Refuse what a web page of another site sends; programs send no Origin, and any Content-Type."""
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
            raise RequestError("PERMISSION_DENIED", f"requests of web pages of {origin} are not answered", 403)

    async def _read(self, request: web.Request) -> bytes:
        """The body, unless it is announced or found to be too large, late or broken."""
        self._check_length(request)
        try:
            return await asyncio.wait_for(request.read(), self._options.read_timeout)
        except asyncio.TimeoutError:
            raise RequestError(
                "DEADLINE_EXCEEDED", f"the body did not come within {self._options.read_timeout:g} s", 408
            ) from None
        except web.HTTPRequestEntityTooLarge:
            raise self._too_large("more") from None
        except ConnectionError:
            raise RequestError("CANCELLED", "the client has gone before the end of its request") from None
        except web.RequestPayloadError as error:
            raise invalid(f"the body is broken: {error}") from error

    def _check_length(self, request: web.Request) -> None:
        length = request.content_length
        if length is not None and length > self._options.max_bytes:
            raise self._too_large(str(length))

    def _too_large(self, received: str) -> RequestError:
        limit = self._options.max_bytes
        return RequestError("RESOURCE_EXHAUSTED", f"the body may have {limit} bytes, received {received}", 413)

    async def _expect(self, request: web.Request) -> web.Response | None:
        """Before a large body a client may ask whether to send it."""
        try:
            self._check_length(request)
        except RequestError as error:
            return _refusal(error)
        if request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None


def _predict(body: bytes, version: Version) -> bytes:
    document = tensors.from_json(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' must be a string")
    signature = version.servable.signature(name)
    arrays, rows = tensors.from_document(document, signature.inputs, signature.limits)
    return tensors.to_json(signature(arrays), rows)


def _metadata(version: Version) -> bytes:
    definitions = {
        name: json_format.MessageToDict(definition, preserving_proto_field_name=True, **_WITH_DEFAULTS)
        for name, definition in version.servable.definitions.items()
    }
    spec = {"name": version.model, "signature_name": "", "version": str(version.number)}
    return _dumps({"model_spec": spec, "metadata": {"signature_def": {"signature_def": definitions}}})


def _status(version: Version) -> dict:
    return {
        "version": str(version.number),
        "state": version.state,
        "status": {"error_code": version.code, "error_message": version.message},
    }


def _wanted(match: re.Match) -> Wanted:
    return Wanted(match["name"], int(match["number"]) if match["number"] else None, match["label"])


def _dumps(value: dict) -> bytes:
    return json.dumps(value, indent=1).encode()


def _refusal(error: RequestError) -> web.Response:
    response = web.json_response({"error": error.message}, status=error.status)
    if error.status in (408, 413):
        response.force_close()  # the rest of the body is not worth reading
    return response
