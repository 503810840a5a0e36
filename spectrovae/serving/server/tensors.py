"""Arrays from requests, and results from arrays: as JSON and as TensorProto, checked against a signature."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import tensorflow as tf

from spectrovae.serving.server.errors import RequestError, invalid
from spectrovae.serving.server.options import Limits

Specs = Mapping[str, tf.TensorSpec]
Arrays = dict[str, np.ndarray]

_VALUES = {
    tf.float32: "float_val", tf.float64: "double_val", tf.int64: "int64_val", tf.bool: "bool_val",
    tf.string: "string_val",
}  # fmt: skip
_JSON: dict[str, set[type]] = {"f": {float, int}, "i": {int}, "u": {int}, "b": {bool}, "O": {str}}
"""The types of JSON's values that an array may be made of, by its kind."""
_NAMES = {
    bool: "booleans", str: "strings", int: "whole numbers", float: "numbers", type(None): "null", dict: "objects",
}  # fmt: skip


def describe(specs: Specs) -> str:
    """``waveform: float32 (-1, -1)``, and so on for each tensor; -1 is any size."""
    texts = []
    for name, spec in sorted(specs.items()):
        shape = "any rank" if spec.shape.rank is None else f"({', '.join(str(size or -1) for size in spec.shape)})"
        texts.append(f"{name}: {spec.dtype.name} {shape}")
    return "; ".join(texts) or "none"


def from_protos(protos: Mapping[str, Any], specs: Specs, limits: Limits) -> Arrays:
    """The inputs of a gRPC request.

    Raises:
        RequestError: an input that is missing, unknown, of another type or rank, empty, or not finite.
    """
    _check_names(protos, specs)
    arrays = {name: _check(name, _from_proto(name, protos[name], spec, limits), spec) for name, spec in specs.items()}
    _check_batch(arrays, specs)
    return arrays


def from_json(body: bytes) -> dict:
    """A request's body as an object.

    Raises:
        RequestError: not JSON, or not an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = " (JSON has no NaN or Infinity)" if b"NaN" in body or b"Infinity" in body else ""
        raise invalid(f"JSON Parse error: {error}{hint}") from error
    if not isinstance(document, dict):
        raise invalid(f'expected a JSON object such as {{"instances": [...]}}, received {type(document).__name__}')
    return document


def from_document(document: dict, specs: Specs, limits: Limits) -> tuple[Arrays, bool]:
    """The inputs of a REST request, and whether they came by rows (``instances``) or by columns (``inputs``).

    Raises:
        RequestError: neither or both of the two, or inputs that the signature does not take.
    """
    rows = "instances" in document
    if rows == ("inputs" in document):
        raise invalid(
            "expected one of 'instances' (rows) and 'inputs' (columns), received " + ("neither", "both")[rows]
        )
    if not specs:
        raise invalid("TensorFlow Serving's REST calls no signature without inputs; call it by gRPC")
    value = document["instances" if rows else "inputs"]
    if rows:
        if not isinstance(value, list) or not value:
            raise invalid("'instances' must be a list of one or more")
        if isinstance(value[0], dict):
            names = set(value[0])
            if any(not isinstance(row, dict) or set(row) != names for row in value):
                raise invalid(f"'instances' must all have the same inputs, expected {describe(specs)}")
            value = {name: [row[name] for row in value] for name in names}
    if not isinstance(value, dict):
        if len(specs) > 1:
            raise invalid(f"expected an object with the inputs {describe(specs)}")
        value = {next(iter(specs)): value}
    _check_names(value, specs)
    arrays = {name: _check(name, _from_list(name, value[name], spec), spec) for name, spec in specs.items()}
    for name, array in arrays.items():
        _check_samples(name, array.shape, specs[name], limits)
    _check_batch(arrays, specs)
    return arrays, rows


def to_json(arrays: Arrays, rows: bool) -> bytes:
    """A REST response: ``predictions`` by rows, ``outputs`` by columns; one tensor goes without its name."""
    plain = {name: _plain(array) for name, array in arrays.items()}
    if not rows:
        return _dumps({"outputs": plain if len(plain) > 1 else next(iter(plain.values()))})
    sizes = {array.shape[0] if array.ndim else None for array in arrays.values()}
    if len(sizes) > 1 or None in sizes:
        raise invalid("the outputs have no common batch axis: ask with 'inputs', by columns, instead of 'instances'")
    if len(plain) == 1:
        return _dumps({"predictions": next(iter(plain.values()))})
    return _dumps({"predictions": [dict(zip(plain, row)) for row in zip(*plain.values())]})


def _dumps(value: dict) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(array: np.ndarray) -> Any:
    if array.dtype == object:
        text = np.frompyfunc(lambda value: value.decode("utf-8", "replace"), 1, 1)(array)
        return text.tolist() if isinstance(text, np.ndarray) else text
    return np.ascontiguousarray(array) if array.ndim else array.item()


def _check_names(received: Mapping[str, Any], specs: Specs) -> None:
    missing, unknown = specs.keys() - received.keys(), received.keys() - specs.keys()
    if missing or unknown:
        parts = [f"expected the inputs {describe(specs)}"]
        parts += [f"missing: {', '.join(sorted(missing))}"] * bool(missing)
        parts += [f"unknown: {', '.join(sorted(unknown))}"] * bool(unknown)
        raise invalid("; ".join(parts))


def _from_proto(name: str, proto: Any, spec: tf.TensorSpec, limits: Limits) -> np.ndarray:
    if proto.dtype != spec.dtype.as_datatype_enum:
        received = _type_name(proto.dtype)
        raise invalid(f"{name} must be {spec.dtype.name}, received {received}")
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f"{name} must have a known shape, received {shape}")
    # A few bytes may claim to be a tensor of any size: what is missing is filled with the last value.
    elements = math.prod(shape)
    if elements * max(spec.dtype.size or 1, 1) > limits.max_bytes:
        raise RequestError(
            "RESOURCE_EXHAUSTED", f"{name} of shape {shape} is over the limit of {limits.max_bytes} bytes"
        )
    if not spec.shape.is_compatible_with(shape):
        raise invalid(f"expected {describe({name: spec})}, received shape {shape}")
    _check_samples(name, shape, spec, limits)
    values = len(getattr(proto, _VALUES.get(spec.dtype, "int_val")))  # TensorFlow takes others for zeros
    try:
        if not proto.tensor_content and values not in (1, elements):
            raise ValueError(f"{values} values")
        return tf.make_ndarray(proto)
    except (ValueError, TypeError, RuntimeError) as error:
        raise invalid(f"{name} of shape {shape} does not hold {elements} values of {spec.dtype.name}") from error


def _from_list(name: str, value: Any, spec: tf.TensorSpec) -> np.ndarray:
    expected = spec.dtype.as_numpy_dtype
    # Looked at before NumPy does, which would give every element the room of the longest string.
    others = _types(value) - _JSON[np.dtype(expected).kind]
    if others:
        received = ", ".join(sorted(_NAMES[kind] for kind in others))
        raise invalid(f"{name} must be {spec.dtype.name}, received {received}")
    try:
        array = np.asarray(value, object if spec.dtype == tf.string else None)
        if array.dtype == object and any(isinstance(element, list) for element in array.flat):
            raise ValueError("ragged")
    except ValueError as error:
        raise invalid(f"{name} must be {describe({name: spec})}: its lists differ in length") from error
    if spec.dtype == tf.string:
        return np.asarray(np.frompyfunc(str.encode, 1, 1)(array), object)
    if spec.dtype.is_integer and array.size and (array.min() < spec.dtype.min or array.max() > spec.dtype.max):
        raise invalid(f"{name} must be {spec.dtype.name}, received numbers beyond it")
    with np.errstate(over="ignore"):  # infinity is refused where all arrays are checked
        return array.astype(expected)


def _types(value: Any) -> set[type]:
    """The types of a value, or of what its lists hold."""
    found: set[type] = set()
    lists = [[value]]
    while lists:
        inner = lists.pop()
        kinds = set(map(type, inner))
        found |= kinds - {list}
        if list in kinds:
            lists += [item for item in inner if isinstance(item, list)]
    return found


def _type_name(number: int) -> str:
    """A type of TensorFlow's protocol, which may be one that there is not."""
    try:
        return tf.dtypes.as_dtype(number).name if number else "no type"
    except TypeError:
        return f"type {number}, which there is not"


def _check_samples(name: str, shape: Sequence[int], spec: tf.TensorSpec, limits: Limits) -> None:
    """Refuse what would become too long a sound, before it takes memory."""
    free = [size for size, fixed in zip(shape, spec.shape) if fixed is None] if spec.shape.rank is not None else shape
    samples = math.prod(free) * limits.unit
    if samples > limits.max_samples:
        raise invalid(
            f"{name} of shape {list(shape)} stands for {samples} samples, and a request may for {limits.max_samples} "
            "(--max-samples): send less at a time"
        )


def _check_batch(arrays: Arrays, specs: Specs) -> None:
    """Refuse inputs of different batches where all begin with a free axis."""
    if all(spec.shape.rank and spec.shape[0] is None for spec in specs.values()):
        sizes = {name: len(array) for name, array in sorted(arrays.items())}
        if len(set(sizes.values())) > 1:
            texts = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            raise invalid(f"the inputs must have equally many rows: {texts}")


def _check(name: str, array: np.ndarray, spec: tf.TensorSpec) -> np.ndarray:
    if not spec.shape.is_compatible_with(array.shape):
        raise invalid(f"expected {describe({name: spec})}, received shape {list(array.shape)}")
    if not array.size:
        raise invalid(f"{name} is empty: expected one value or more, received shape {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise invalid(f"{name} must be finite, received NaN or infinite values")
    return array
