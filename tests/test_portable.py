"""Encoder and decoder in other runtimes: the same results, named tensors, any batch."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_export import make_codec, noise

from spectrovae import models, serving
from spectrovae.cli import main
from spectrovae.errors import InputError
from spectrovae.serving import portable
from spectrovae.serving.endpoints import latent_names


@pytest.fixture(params=["onnx", "litert"])
def target(request):
    if request.param == "onnx":
        for package in ("tf2onnx", "onnx", "onnxruntime"):
            pytest.importorskip(package, reason="needs the extra onnx")
    return request.param


def runner(path, part: str):
    """Named arrays -> named arrays, by the runtime alone."""
    if path.name == "litert":
        return tf.lite.Interpreter(model_path=str(path / f"{part}.tflite")).get_signature_runner()
    import onnxruntime

    session = onnxruntime.InferenceSession(path / f"{part}.onnx")
    names = [output.name for output in session.get_outputs()]
    return lambda **tensors: dict(zip(names, session.run(None, tensors)))


@pytest.mark.parametrize("family", sorted(models.FAMILIES))
def test_gives_what_keras_gives(family, target, tmp_path):
    codec = make_codec(family)
    path = serving.export_parts(codec, tmp_path, target)
    assert path == tmp_path / codec.name / target
    assert sorted(file.suffix for file in path.iterdir()) == sorted([".json", *2 * [portable.SUFFIXES[target]]])
    encoder, decoder = runner(path, "encoder"), runner(path, "decoder")
    for batch in (1, 5):
        features = codec.representation(noise(batch, codec.segment_samples)).numpy()
        latent = encoder(features=features)
        expected = tf.nest.flatten(codec.encoder(features))
        assert set(latent) == set(latent_names(codec))
        for name, value in zip(latent_names(codec), expected):
            np.testing.assert_allclose(latent[name], value, atol=1e-5 * max(1.0, np.abs(value).max()))
        found = decoder(**latent)["features"]
        np.testing.assert_allclose(found, codec.reconstruct_features(features), atol=1e-4)
    description = json.loads((path / "spectrovae.json").read_text())
    assert description["representation"]["class"] == type(codec.representation).__name__
    assert all(difference < -60 for difference in description["parity"].values())


def test_beside_the_versions_of_a_served_model(tmp_path, monkeypatch):
    """TF Serving skips a folder that is no number; so does the count of versions."""
    codec = make_codec("vae")
    serving.export_parts(codec, tmp_path, "litert")
    assert serving.export(codec, tmp_path, check=False).name == "1"
    with pytest.raises(InputError, match="litert exists; .*--force"):
        serving.export_parts(codec, tmp_path, "litert")
    monkeypatch.setattr(portable, "TOLERANCE", -1.0)
    before = (tmp_path / codec.name / "litert").stat().st_ino
    with pytest.raises(serving.ParityError, match="encoder of tiny-vae in litert differs"):
        serving.export_parts(codec, tmp_path, "litert", force=True)
    assert (tmp_path / codec.name / "litert").stat().st_ino == before
    assert [entry.name for entry in tmp_path.iterdir()] == [codec.name]


def test_the_command_says_that_audio_processing_stays_outside(tmp_path, capsys):
    make_codec("vae").save(tmp_path / "vae")
    command = ["export", str(tmp_path / "vae"), str(tmp_path / "out"), "--target", "litert"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Waveform to features and back stays with the caller" in printed
    assert "encoder -" in printed
    assert main([*command, "--weights", "int8"]) == 2
    assert "--weights" in capsys.readouterr().err


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    codec = make_codec("vae")
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    with pytest.raises(InputError, match=r"needs tf2onnx: pip install 'spectrovae\[onnx\]'"):
        serving.export_parts(codec, tmp_path, "onnx")
    with pytest.raises(InputError, match="target must be one of onnx, litert"):
        serving.export_parts(codec, tmp_path, "torch")
    assert not list(tmp_path.glob("*"))
