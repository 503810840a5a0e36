"""One loaded version of a model."""

import json
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from spectrovae.serving.server import tensors
from spectrovae.serving.server.batching import Batching, Queues
from spectrovae.serving.server.errors import RequestError, from_tensorflow, invalid
from spectrovae.serving.server.options import Limits

DEFAULT = "serving_default"
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


class Signature:
    """A function of a SavedModel, on arrays.

    Args:
        function: as ``signatures`` of a loaded SavedModel holds them.
        batching: how calls are joined; None for each on its own.
        queues: of the process.
        limits: of a request.
        segment: samples that a row of latents or a row to generate becomes.
    """

    def __init__(self, function, batching: Batching | None, queues: Queues, limits: Limits, segment: int):
        self.inputs: tensors.Specs = function.structured_input_signature[1]
        self.limits = limits._replace(unit=1 if {"waveform", "features"} & set(self.inputs) else segment)
        self.outputs = sorted(function.structured_outputs)
        self._names = sorted(self.inputs)
        self._function = function
        self._queues = queues
        every = [*self.inputs.values(), *function.structured_outputs.values()]
        # Only what has a batch axis everywhere can be joined and taken apart again.
        joinable = self.inputs and all(spec.shape.rank and spec.shape[0] is None for spec in every)
        self._batching = batching if joinable else None
        if self._batching:
            self._joined = tf.function(self._in_order, autograph=False).get_concrete_function(
                *(self.inputs[name] for name in self._names)
            )

    def __call__(self, arrays: tensors.Arrays) -> tensors.Arrays:
        """Compute checked arrays.

        Raises:
            RequestError: the model failed on them.
        """
        inputs = [tf.constant(arrays[name]) for name in self._names]
        try:
            outputs = self._run(inputs)
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        return dict(zip(self.outputs, (output.numpy() for output in outputs)))

    def _run(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        batching = self._batching
        # What fills a batch by itself has nothing to gain, and inputs of different batches cannot be joined.
        if batching is None or len({len(tensor) for tensor in inputs}) > 1 or len(inputs[0]) >= batching.max_batch:
            return self._in_order(*inputs)
        key = (self, *(tuple(tensor.shape[1:]) for tensor in inputs))
        with self._queues.lend(key) as (queue, users):
            if queue is None:
                return self._in_order(*inputs)
            try:
                return batching.run(queue, users, self._joined, inputs)
            except tf.errors.OpError:
                return self._in_order(*inputs)  # whoever spoiled the batch, each now answers for itself

    def _in_order(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        outputs = self._function(**dict(zip(self._names, inputs)))
        return [outputs[name] for name in self.outputs]


class Servable:
    """A version of a model, loaded and warmed up.

    Args:
        path: of the SavedModel.
        batching, queues: see :class:`Signature`.
        limits: of a request.

    Raises:
        Exception: whatever TensorFlow raises on a folder that is no SavedModel, or a damaged one.
    """

    def __init__(self, path: Path, batching: Batching | None, queues: Queues, limits: Limits):
        self.path = path
        segment = _segment(path)
        self._root = tf.saved_model.load(str(path))  # a signature alone holds its variables only weakly
        self.signatures = {
            name: Signature(function, batching, queues, limits, segment)
            for name, function in self._root.signatures.items()
        }
        self.definitions = _definitions(path)
        self.warmed = self._warm_up()

    def signature(self, name: str) -> Signature:
        """A signature by name, ``serving_default`` where the name is empty.

        Raises:
            RequestError: no such signature.
        """
        try:
            return self.signatures[name or DEFAULT]
        except KeyError:
            known = ", ".join(sorted(self.signatures))
            raise RequestError(
                "FAILED_PRECONDITION", f'Serving signature key "{name or DEFAULT}" not found. There are: {known}'
            ) from None

    def predict(self, request) -> tensors.Arrays:
        """The outputs of a ``PredictRequest`` that its ``output_filter`` lets through.

        Raises:
            RequestError: see :func:`tensors.from_protos`.
        """
        signature = self.signature(request.model_spec.signature_name)
        wanted = list(request.output_filter) or signature.outputs
        unknown = set(wanted) - set(signature.outputs)
        if unknown:
            raise invalid(f"output_filter must be of {', '.join(signature.outputs)}, received {', '.join(unknown)}")
        results = signature(tensors.from_protos(request.inputs, signature.inputs, signature.limits))
        return {name: results[name] for name in wanted}

    def _warm_up(self) -> int:
        """Replay the recorded requests that come with the model; their number."""
        path = self.path / WARMUP
        records = tf.data.TFRecordDataset(str(path)) if path.exists() else ()
        count = 0
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            if log.HasField("predict_log"):
                self.predict(log.predict_log.request)
                count += 1
        return count


def _segment(path: Path) -> int:
    """Samples of a segment of a model that spectrovae exported; 1 of any other."""
    try:
        return int(
            json.loads((path / "assets.extra" / "spectrovae.json").read_text(encoding="utf-8"))["segment_samples"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def _definitions(path: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures as the file states them, for the metadata request."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = next(graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
    return dict(graph.signature_def)
