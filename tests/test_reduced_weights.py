"""Exports with smaller weights: smaller on disk, equal to Keras with the rounded weights, the cost told."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from test_export import make_codec, noise

from spectrovae import serving
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.errors import InputError


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    if values.ndim < 2 or values.dtype != np.float32:
        return values
    if kind == "float16":
        return values.astype(np.float16).astype(np.float32)
    scale = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0) / 127
    return np.rint(values / np.where(scale > 0, scale, 1)).astype(np.float32) * scale


def size(path) -> int:
    return sum(file.stat().st_size for file in (path / "variables").glob("*.data*"))


def largest_constant(path) -> int:
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    functions = (node for function in graph.library.function for node in function.node_def)
    constants = (node for node in itertools.chain(graph.node, functions) if node.op == "Const")
    return max(node.ByteSize() for node in constants if node.attr["dtype"].type != tf.string.as_datatype_enum)


def build(family, folder):
    """A codec, its bundle, its export with all bits."""
    made = make_codec(family)
    made.save(folder / made.name)
    return made, folder / made.name, serving.export(made, folder / "full", check=False)


@pytest.mark.parametrize(("family", "kind"), [("vae", "float16"), ("vq-vae", "int8")])
def test_a_reduced_export_is_the_keras_model_with_rounded_weights(family, kind, tmp_path):
    """The other pairs: tests/nightly/test_every_family.py."""
    check_reduced(family, kind, tmp_path)


def check_reduced(family, kind, folder):
    made, bundle, full = build(family, folder)
    tmp_path, share = folder / "reduced", {"float16": 0.6, "int8": 0.4}[kind]
    before = [np.array(weight) for weight in made.encoder.weights + made.decoder.weights]
    path = serving.export(made, tmp_path, weights=kind)  # the gate has passed: equal to Keras reading what is stored
    for weight, value in zip(made.encoder.weights + made.decoder.weights, before):
        np.testing.assert_array_equal(weight, value)
    assert size(path) < share * size(full)
    assert largest_constant(path) <= largest_constant(full)  # no weight is left in the graph
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    kinds = reader.get_variable_to_dtype_map()
    matrices = [kinds[name] for name, shape in reader.get_variable_to_shape_map().items() if len(shape) > 1]
    assert tf.as_dtype(kind) in matrices

    other = Codec.load(bundle)
    for part in (other.encoder, other.decoder):
        for weight in part.weights:
            weight.assign(rounded(np.array(weight), kind))
    waveform = noise(2, 700)
    served = tf.saved_model.load(str(path)).signatures
    features = served["features"](waveform=tf.constant(waveform))
    found = served["reconstruct"](**features)["features"].numpy()
    np.testing.assert_allclose(found, other.reconstruct_features(other.representation(waveform)), atol=1e-4)
    assert np.abs(found - made.reconstruct_features(made.representation(waveform))).max() > 1e-4
    result = served["serving_default"](waveform=tf.constant(waveform))["waveform"]
    np.testing.assert_allclose(result, other.reconstruct(waveform), atol=1e-3)

    written = serving.read_export(path)["weights"]
    assert written["kind"] == kind
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert written["megabytes"] == pytest.approx(total / 1e6, rel=0.05)
    assert set(written["error_db"]) == ({"reconstruct"} if "vq" in made.name else {"encode", "reconstruct"})
    assert all(-100 < error < -10 for error in written["error_db"].values())


def test_what_a_reduction_costs_is_printed(tmp_path, capsys):
    _, bundle, full = build("vae", tmp_path)
    tmp_path = tmp_path / "reduced"
    assert serving.read_export(full)["weights"]["error_db"] == {}
    assert main(["export", str(bundle), str(tmp_path), "--weights", "float16"]) == 0
    printed = capsys.readouterr().out
    assert "float16 weights" in printed
    assert "RMS error against float32 weights" in printed
    with pytest.raises(InputError, match="weights must be one of float32, float16, int8"):
        serving.export(bundle, tmp_path, weights="int4")
