"""A request that is refused: one code for gRPC, one for HTTP, one message."""

import grpc
import tensorflow as tf

# As TensorFlow Serving's HTTP server translates the codes.
HTTP_STATUS = {
    "CANCELLED": 499, "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 504, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503, "UNIMPLEMENTED": 501,
}  # fmt: skip
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


LONGEST = 1000
"""Characters of a message, which may repeat what a client has sent; gRPC sends no long ones."""


class RequestError(Exception):
    """A request that is refused.

    Args:
        code: name of a gRPC status code.
        message: what was expected, and what came.
        status: of HTTP, where it is not the one that goes with the code.
    """

    def __init__(self, code: str, message: str, status: int | None = None):
        super().__init__(message)
        self.code = code
        self.message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        self.status = status or HTTP_STATUS.get(code, 500)


def invalid(message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", message)


def from_tensorflow(error: tf.errors.OpError) -> RequestError:
    """What went wrong while a model ran, without the places of its graph that TensorFlow names before and after."""
    lines = [line for line in str(error.message).splitlines() if line.strip() and "[[{{node" not in line]
    return RequestError(_CODES.get(error.error_code, "INTERNAL"), lines[-1] if lines else type(error).__name__)
