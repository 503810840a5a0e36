"""TensorFlow Serving's gRPC services, on its own stubs, and the standard health service."""

import functools
import logging

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from spectrovae.serving.server import servable
from spectrovae.serving.server.engine import Engine
from spectrovae.serving.server.errors import RequestError, invalid
from spectrovae.serving.server.manager import Version, Wanted
from spectrovae.serving.server.options import Options

log = logging.getLogger(__name__)


def answering(method):
    """Turn a refusal into the status of the call."""

    @functools.wraps(method)
    async def answer(self, request, context):
        try:
            return await method(self, request)
        except RequestError as error:
            code, message = grpc.StatusCode[error.code], error.message
        except Exception:
            log.exception("gRPC request failed")
            code, message = grpc.StatusCode.INTERNAL, "the server failed; its log says why"
        return await context.abort(code, message)

    return answer


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, engine: Engine):
        self._engine = engine

    @answering
    async def Predict(self, request, context=None):  # noqa: N802
        """Compute a signature."""
        return await self._engine.call(_wanted(request.model_spec), functools.partial(_predict, request))

    @answering
    async def GetModelMetadata(self, request, context=None):  # noqa: N802
        """The signatures of a model."""
        unknown = set(request.metadata_field) - {"signature_def"}
        if unknown or not request.metadata_field:
            raise invalid(f"metadata_field must be signature_def, received {', '.join(sorted(unknown)) or 'none'}")
        return await self._engine.call(_wanted(request.model_spec), _metadata)


class Status(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, engine: Engine):
        self._engine = engine

    @answering
    async def GetModelStatus(self, request, context=None):  # noqa: N802
        """The versions of a model and their states."""
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self._engine.manager.versions(_wanted(request.model_spec)):
            status = response.model_version_status.add(version=version.number, state=version.state)
            status.status.error_code = grpc.StatusCode[version.code].value[0]
            status.status.error_message = version.message
        return response


class _Decoding(grpc.aio.ServerInterceptor):
    """Answers bytes that are no message of the method with INVALID_ARGUMENT; gRPC would log a traceback for each."""

    async def intercept_service(self, continuation, handler_call_details):
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        decode, respond = handler.request_deserializer, handler.unary_unary

        def deserialise(data: bytes):
            try:
                return decode(data)
            except DecodeError:
                return None

        async def answer(request, context):
            if request is None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of this method")
            return await respond(request, context)

        return handler._replace(request_deserializer=deserialise, unary_unary=answer)


def server(engine: Engine, options: Options) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server, not bound or started yet, and the service that tells its health."""
    made = grpc.aio.server(
        interceptors=[_Decoding()],
        options=[
            ("grpc.max_receive_message_length", options.max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(engine), made)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(engine), made)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, made)
    return made, servicer


SERVING = health_pb2.HealthCheckResponse.SERVING


def _wanted(spec) -> Wanted:
    if not spec.name:
        raise invalid("model_spec.name must say which model")
    choice = spec.WhichOneof("version_choice")
    return Wanted(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _predict(request, version: Version):
    outputs = version.servable.predict(request)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    response.model_spec.signature_name = request.model_spec.signature_name or servable.DEFAULT
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
    return response


def _metadata(version: Version):
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    definitions = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in version.servable.definitions.items():
        definitions.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(definitions)
    return response
