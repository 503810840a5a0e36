"""SavedModel export: signatures, parity with Keras in a process without it, versions, nothing half written."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import spectrovae
from spectrovae import models, representations, serving
from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.serving import c_session, parity, saved_model
from spectrovae.serving.endpoints import endpoints, latent_names

RATE = 4000


only_vae = pytest.mark.parametrize("exported", ["vae"], indirect=True)


def noise(batch: int, samples: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(samples).standard_normal((batch, samples))).astype(np.float32)


def make_codec(family: str, normalisation: str = "per_bin") -> Codec:
    """An untrained codec; standardised features make even that one's sounds loud and unlike each other."""
    keras.utils.set_random_seed(1)
    waveforms = {
        "rave": representations.Subbands(RATE, bands=4),
        "waveform-vae": representations.Chunks(RATE, length=480),
    }
    representation = waveforms.get(family) or representations.LogSTFT(
        RATE, n_fft=64, hop_length=32, phase_iterations=4, normalisation=normalisation
    )
    if family not in waveforms:
        representation.adapt([noise(4, 480)])
    shape = representation.feature_shape(512 if family == "rave" else 480)
    model = models.FAMILIES[family](shape, preset="tiny")
    model.initialise([representation(noise(40, 480))])
    parts = (representation, model.encoder, model.decoder)
    info = {"labels": ["yes", "no"]}
    return Codec(
        *parts, family=family, prior=model.prior, info=info, name=f"tiny-{family}", segment_frames=shape[1]
    )  # fmt: skip


@pytest.fixture(scope="module", params=["vae", "unet", "vq-vae"])  # a vector, a list, whole numbers as latents
def exported(request, tmp_path_factory):
    """A codec, the path of its bundle and of its export."""
    codec = make_codec(request.param)
    folder = tmp_path_factory.mktemp("export")
    codec.save(folder / codec.name)
    return codec, folder / codec.name, serving.export(folder / codec.name, folder / "served")


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported[2]))
    yield loaded.signatures
    del loaded  # a signature holds its variables only weakly


def test_signatures_are_named_and_of_any_batch_and_length(exported, signatures):
    codec = exported[0]
    drawn = {"generate"} if codec.prior else set()
    assert set(signatures) == {"serving_default", "features", "encode", "decode", "reconstruct", "describe"} | drawn
    latents = {f"latent_{i}": each for i, each in enumerate(zip(codec.latent_shapes, codec.latent_types))}
    if len(latents) == 1:
        latents = {"latent": latents["latent_0"]}
    waveform = {"waveform": tf.TensorSpec([None, None], tf.float32, "waveform")}
    latent = {name: tf.TensorSpec([None, None, *shape], kind, name) for name, (shape, kind) in latents.items()}
    features = {"features": tf.TensorSpec([None, 32, None, 1], tf.float32, "features")}
    for name, inputs, outputs in (
        ("serving_default", waveform, waveform),
        ("features", waveform, features),
        ("encode", waveform, latent),
        ("decode", latent, waveform),
        ("reconstruct", features, features),
        ("describe", {"request": tf.TensorSpec([None], tf.string, "request")},
         {"description": tf.TensorSpec([None], tf.string, "description")}),
    ):  # fmt: skip
        assert signatures[name].structured_input_signature == ((), inputs)
        assert signatures[name].structured_outputs == outputs
    if codec.prior:
        seed, temperature = (tf.TensorSpec([None], k, n) for k, n in ((tf.int32, "seed"), (tf.float32, "temperature")))
        given = {"seed": seed, "temperature": temperature}
        assert signatures["generate"].structured_input_signature == ((), given)
        assert signatures["generate"].structured_outputs == waveform


def test_description_tells_the_sample_rate_without_and_with_tensorflow(exported, signatures):
    codec, _, path = exported
    first, second = signatures["describe"](request=tf.constant(["", "x"]))["description"].numpy()
    assert first == second
    description = json.loads(first)
    assert (description["sample_rate"], description["segment_samples"]) == (RATE, codec.segment_samples)
    assert (description["name"], description["version"]) == (codec.name, 1)
    assert description["representation"]["hop_length"] == 32
    assert description["versions"]["spectrovae"] == spectrovae.__version__
    assert description["labels"] == ["yes", "no"]
    written = serving.read_export(path)
    assert written.pop("parity").keys() == {"python", "session"}
    assert description["weights"] == {"kind": "float32"}
    assert written.pop("weights").items() > description.pop("weights").items()
    assert written == description


def test_gives_what_keras_gives_at_lengths_the_gate_does_not_try(exported, signatures):
    codec = exported[0]
    for waveform in (noise(3, 7), noise(2, 481), noise(1, 2000)):
        names = latent_names(codec)
        latent = codec.encode(waveform)
        served = signatures["encode"](waveform=tf.constant(waveform))
        for name, expected in zip(names, tf.nest.flatten(latent)):
            np.testing.assert_allclose(served[name], expected, atol=1e-5)
        decoded = signatures["decode"](**served)["waveform"]
        np.testing.assert_allclose(decoded, codec.decode(latent), atol=1e-4)
        result = signatures["serving_default"](waveform=tf.constant(waveform))["waveform"]
        assert result.shape == waveform.shape
        np.testing.assert_allclose(result, codec.reconstruct(waveform), atol=1e-4)
        features = signatures["features"](waveform=tf.constant(waveform))
        np.testing.assert_allclose(features["features"], codec.representation(waveform), atol=1e-5)
        reconstructed = signatures["reconstruct"](**features)["features"]
        np.testing.assert_allclose(reconstructed, codec.reconstruct_features(codec.representation(waveform)), atol=1e-4)


def test_reconstruct_fills_the_last_segment_with_the_features_of_silence(exported, signatures):
    """As the way from waveform to waveform does, when the frames reach far enough past the sound."""
    codec = exported[0]
    waveform = np.pad(noise(2, 600), [[0, 0], [0, 200]])
    features = codec.features_graph(tf.constant(waveform))
    known = codec.representation(waveform).shape[2]
    assert known % codec.segment_frames
    found = signatures["reconstruct"](features=features[:, :, :known])["features"]
    expected = codec.replay(waveform)["decoded"]
    np.testing.assert_allclose(found, expected[:, :, :known], atol=1e-4)


def test_parity_figures_of_the_gate(exported):
    for of_loader in serving.read_export(exported[2])["parity"].values():
        drawn = {"generate"} if exported[0].prior else set()
        assert set(of_loader) == {"serving_default", "features", "encode", "decode", "reconstruct"} | drawn
        for figures in of_loader.values():
            assert 0.0 <= figures["relative"] <= 1e-2
            assert figures["db"] == pytest.approx(20 * np.log10(max(figures["relative"], 1e-10)))


def test_warm_up_requests_are_answered(exported, signatures):
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    asked = []
    for record in tf.data.TFRecordDataset(str(exported[2] / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        for tensor in signatures[request.model_spec.signature_name](**inputs).values():
            assert tensor.shape[0] == 1
        asked.append(request.model_spec.signature_name)
        assert request.model_spec.name == exported[0].name
    drawn = ["generate"] if exported[0].prior else []
    assert asked == ["serving_default", "features", "encode", "decode", "reconstruct", *drawn]


@only_vae
def test_the_c_session_gives_what_python_gives_and_says_what_is_wrong(exported, signatures, tmp_path):
    session = c_session.Session(str(exported[2]))
    waveform = noise(3, 700)
    found = session.run("serving_default", {"waveform": waveform})
    assert list(found) == ["waveform"]
    np.testing.assert_allclose(
        found["waveform"], signatures["serving_default"](waveform=tf.constant(waveform))["waveform"], atol=1e-4
    )
    with pytest.raises(RuntimeError, match="out of bounds"):
        session.run("serving_default", {"waveform": waveform[0]})
    with pytest.raises(RuntimeError, match="Could not find SavedModel"):
        c_session.Session(str(tmp_path))


@only_vae
def test_parity_where_tensorflow_comes_without_the_c_library(exported, monkeypatch):
    codec, _, path = exported
    replayed = parity.replayed
    monkeypatch.setattr(parity, "replayed", lambda *given: {"python": replayed(*given)["python"]})
    figures = serving.check_parity(path, codec)
    assert set(figures) == {"python"}
    assert "the C++ session was not tried" in serving.format_parity(figures)


@only_vae
def test_loads_where_keras_and_spectrovae_cannot_be_imported(exported):
    """Independent of the package's own gate: the modules are shadowed by ones that fail on import."""
    codec, _, path = exported
    broken = path.parents[2] / "broken"
    for package in ("keras", "tf_keras", "spectrovae"):
        (broken / package).mkdir(parents=True, exist_ok=True)
        (broken / package / "__init__.py").write_text("raise ImportError('taken to be not installed')")
    waveform = noise(2, 900)
    np.save(broken / "waveform.npy", waveform)
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1])\n"
        "found = served.signatures['serving_default'](waveform=tf.constant(np.load(sys.argv[2])))\n"
        "np.save(sys.argv[3], found['waveform'])\n"
        "sys.exit(any(name.split('.')[0] in ('keras', 'spectrovae') for name in sys.modules))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(broken / "waveform.npy"), str(broken / "found.npy")],
        env={**os.environ, "PYTHONPATH": str(broken)},
        check=True,
    )
    np.testing.assert_allclose(np.load(broken / "found.npy"), codec.reconstruct(waveform), atol=1e-4)


@pytest.mark.parametrize("normalisation", ["range", "per_example"])
def test_other_normalisations(tmp_path, normalisation):
    codec = make_codec("vae", normalisation)
    served = tf.saved_model.load(str(serving.export(codec, tmp_path, check=False)))
    waveform = noise(2, 500)
    found = served.signatures["serving_default"](waveform=tf.constant(waveform))["waveform"]
    np.testing.assert_allclose(found, codec.reconstruct(waveform), atol=1e-5)


@pytest.fixture
def marker_instead_of_model(monkeypatch):
    """Writing a real SavedModel takes seconds; where only folders matter, a file stands for it."""

    def save(codec, path, table, stored):
        path.mkdir(exist_ok=True)
        (path / "saved_model.pb").write_text(str([endpoint.name for endpoint in table]))

    monkeypatch.setattr(saved_model, "save", save)


@pytest.mark.usefixtures("marker_instead_of_model")
def test_versions_count_up_and_are_not_overwritten(tmp_path):
    codec = make_codec("vae")
    assert serving.export(codec, tmp_path, check=False) == tmp_path / "tiny-vae" / "1"
    assert serving.export(codec, tmp_path, check=False, version=7) == tmp_path / "tiny-vae" / "7"
    assert serving.export(codec, tmp_path, check=False) == tmp_path / "tiny-vae" / "8"
    assert serving.export(codec, tmp_path, check=False, name="other") == tmp_path / "other" / "1"
    kept = (tmp_path / "tiny-vae" / "7" / "saved_model.pb").stat()
    with pytest.raises(InputError, match="7 exists"):
        serving.export(codec, tmp_path, check=False, version=7)
    assert (tmp_path / "tiny-vae" / "7" / "saved_model.pb").stat() == kept
    serving.export(codec, tmp_path, check=False, version=7, force=True)
    assert (tmp_path / "tiny-vae" / "7" / "saved_model.pb").stat().st_mtime_ns > kept.st_mtime_ns
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "tiny-vae"]
    assert sorted(entry.name for entry in (tmp_path / "tiny-vae").iterdir()) == ["1", "7", "8"]
    # As readable as any folder made here: a server may run as another user.
    assert (tmp_path / "tiny-vae" / "8").stat().st_mode == (tmp_path / "tiny-vae").stat().st_mode


@pytest.mark.usefixtures("marker_instead_of_model")
def test_a_model_that_differs_is_not_published(tmp_path, monkeypatch):
    codec = make_codec("vae")

    def replayed(path, requests):
        same = parity.recorded(codec, endpoints(codec))[1]
        found = {key: value.copy() for key, value in same.items()}
        found["1x100/decode/waveform"][0, 3] += 0.02 * np.abs(found["1x100/decode/waveform"]).max()
        return {"python": same, "session": found}

    monkeypatch.setattr(parity, "replayed", replayed)
    with pytest.raises(serving.ParityError, match="1x100/decode/waveform by 0.02.*loader: session"):
        serving.export(codec, tmp_path)
    assert list(tmp_path.iterdir()) == []
    serving.export(codec, tmp_path, check=False)  # the gate alone stood in the way


@only_vae
def test_the_gate_sees_other_weights_and_a_model_that_does_not_run(exported, tmp_path):
    codec, bundle, path = exported
    other = Codec.load(bundle)
    bias = other.decoder.trainable_weights[-1]
    bias.assign(bias + 0.05)
    with pytest.raises(serving.ParityError, match="differs from the Keras model: 4x1/serving_default/waveform by"):
        serving.check_parity(path, other)
    with pytest.raises(serving.ParityError, match="does not run in a new process"):
        serving.check_parity(tmp_path, codec)


def test_noise_in_the_decoder_is_refused(tmp_path):
    codec = make_codec("vae")

    @keras.saving.register_keras_serializable("tests")
    class Noise(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.generator = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)

    noisy = keras.Model(codec.decoder.inputs, Noise()(codec.decoder.output))
    with pytest.raises(InputError, match="serving_default .* uses state that is no weight .*seed"):
        serving.export(Codec(codec.representation, codec.encoder, noisy, name="noisy"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("marker_instead_of_model")
def test_bad_requests_are_one_line_errors(tmp_path):
    codec = make_codec("vae")
    with pytest.raises(InputError, match="no model bundle"):
        serving.export(tmp_path / "nowhere", tmp_path / "served")
    for name in ("", "a/b", "..", ".hidden", "a name", "a:b", "ä"):
        with pytest.raises(InputError, match="plain folder name"):
            serving.export(codec, tmp_path / "served", name=name)
    for version in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError, match="whole number"):
            serving.export(codec, tmp_path / "served", version=version)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write .*; choose a folder"):
        serving.export(codec, tmp_path / "file")
    with pytest.raises(InputError, match="cannot write .*; choose a folder"):
        serving.export(codec, tmp_path, name="file")
    with pytest.raises(InputError, match="no exported model"):
        serving.read_export(tmp_path)
    assert (tmp_path / "file").read_text() == "in the way"
