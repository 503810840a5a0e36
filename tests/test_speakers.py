"""Decoders that are told who speaks: their parts, the adversary, the batches, runs, and the leak."""

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from interrupts import interrupted
from keras import ops
from tones import SAMPLES, write_tones

from spectrovae import layers, training
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.diagnostics import diagnose
from spectrovae.evaluation.leak import classified, points_of
from spectrovae.evaluation.rate import rate_distortion
from spectrovae.evaluation.worst_case import gradient_path
from spectrovae.models import FAMILIES, PRIORS, conditioning
from spectrovae.models.base import reduced_shape
from spectrovae.models.vq_vae import PRESETS, patch_shape, strides_for
from spectrovae.representations import LogSTFT
from spectrovae.serving.endpoints import endpoints
from spectrovae.training.corrupt import Corruption
from spectrovae.training.divergence import first_non_finite

SHAPE = (64, 16, 1)
NAMES = ("ann", "bob", "cyd")
SPEAKING = ("vae", "vq-vae")


def make(family, shape=SHAPE, **options):
    """A small trainer whose speakers already sound different."""
    model = FAMILIES[family](shape, preset="tiny", **{"speakers": NAMES, **options})
    for index, weight in enumerate(model.decoder.trainable_weights):
        if "modulate" in weight.path:
            weight.assign(0.3 * np.random.default_rng(index).standard_normal(weight.shape))
    return model


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.0, 1.0, shape).astype(np.float32)


def batch(size=6, seed=0):
    return {"features": noise(size, *SHAPE, seed=seed), "speaker": np.arange(size, dtype=np.int32) % 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def recordings(folder):
    return Recordings.open(folder, samples=SAMPLES)


@pytest.fixture(scope="module")
def representation():
    return LogSTFT(8000, n_fft=128, hop_length=64, phase_iterations=2)


# Layers


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3, 250.0])
def test_gradient_reversal_is_exact(weight):
    x, upstream = noise(5, 7), noise(5, 7, seed=1)
    layer = layers.GradientReversal(weight)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = layer(variable)
        loss = tf.reduce_sum(y * upstream)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(tape.gradient(loss, variable), np.float32(-weight) * upstream)
    assert layers.GradientReversal.from_config(layer.get_config()).weight == weight


def test_an_untrained_modulation_changes_nothing():
    x, condition = noise(3, 4, 5, 6), noise(3, 2)
    for scale in (True, False):
        layer = layers.Modulation(scale)
        np.testing.assert_array_equal(layer(x, condition), x)
        kernel = noise(*layer.kernel.shape, seed=2)
        layer.kernel.assign(kernel)
        found = (condition @ kernel)[:, None, None, :]
        expected = x * (1 + found[..., :6]) + found[..., 6:] if scale else x + found
        np.testing.assert_allclose(layer(x, condition), expected, rtol=1e-5)


def test_whoever_is_not_known_is_nobody():
    embedding = layers.SpeakerEmbedding(NAMES, 4)
    found = np.asarray(embedding(np.array([0, 2, 3, 9, -1])))
    np.testing.assert_array_equal(found, embedding.table.numpy()[[0, 2, 3, 3, 3]])


# Trainers


@pytest.mark.parametrize("family", SPEAKING)
def test_nobody_is_the_default(family):
    model, features = make(family), noise(3, *SHAPE)
    assert [tensor.name for tensor in model.decoder.inputs][-1] == "speaker"
    latent = model.encoder(features)
    nobody = np.asarray(model.decoder([latent, tf.fill([3], 3)]))
    np.testing.assert_allclose(model.reconstruct(features), nobody, atol=1e-6)
    np.testing.assert_allclose(conditioning.for_nobody(model.decoder)(latent), nobody, atol=1e-6)
    np.testing.assert_allclose(model(features)["features"], nobody, atol=1e-6)
    spoken = [np.asarray(model.reconstruct(features, np.full(3, index))) for index in range(3)]
    assert min(np.abs(one - nobody).max() for one in spoken) > 1e-3
    inputs = {"features": features, "speaker": np.array([0, 1, 3])}
    rows = np.stack([spoken[0][0], spoken[1][1], nobody[2]])
    np.testing.assert_allclose(model(inputs)["features"], rows, atol=1e-6)


@pytest.mark.parametrize("family", SPEAKING)
def test_parts_from_and_to_a_layer(family):
    model, features = make(family), noise(3, *SHAPE)
    start = "codebook" if family == "vq-vae" else None
    latent, speaker = model.encoder(features), tf.constant([0, 1, 3])
    given = model.quantiser.lookup(latent) if start else latent
    expected = model.decoder([latent, speaker])
    np.testing.assert_allclose(
        conditioning.part(model.decoder, start, "features")([given, speaker]), expected, atol=1e-6
    )
    alone = conditioning.for_nobody(model.decoder)
    found = conditioning.part(alone, start, "features")(given)
    np.testing.assert_allclose(found, alone(latent), atol=1e-6)
    assert conditioning.whole(alone) is model.decoder
    assert conditioning.whole(FAMILIES[family](SHAPE, preset="tiny").decoder).name == "decoder"


@pytest.mark.parametrize("family", SPEAKING)
def test_speakers_are_dropped_in_training_alone(family):
    model = make(family, speaker_dropout=0.5)
    inputs = {"features": noise(400, 64, 16, 1), "speaker": np.zeros(400, np.int32)}
    dropped = np.asarray(model.told(inputs, training=True)[1])
    assert set(dropped.tolist()) == {0, 3}
    assert 0.35 < np.mean(dropped == 3) < 0.65
    assert not np.any(model.told(inputs, training=False)[1])
    assert make(family, speaker_dropout=0.0).told(inputs, training=True)[1].numpy().max() == 0


@pytest.mark.parametrize("family", SPEAKING)
def test_the_adversary_turns_the_gradient_round(family):
    """What the adversary's loss adds to the encoder's gradient is -weight times that of an honest classifier."""
    gradients = []
    for weight in (7.0, 14.0):
        model = make(family, speaker_adversary=weight)
        model.set_weights(gradients[0][1] if gradients else model.get_weights())
        inputs = batch()
        with tf.GradientTape(persistent=True) as tape:
            encodings = model.analysis(inputs["features"]) if family == "vq-vae" else model.encoder(inputs["features"])
            loss = model.adversary_loss(inputs, model.guessed(encodings, True), True)
            plain = model.adversary.layers[2](encodings)
            for layer in model.adversary.layers[3:]:
                plain = layer(plain)
            known = inputs["speaker"] < 3
            honest = ops.mean(
                known * ops.sparse_categorical_crossentropy(np.where(known, inputs["speaker"], 0), plain, True)
            )
        (turned,), (straight,) = (tape.gradient(value, [encodings]) for value in (loss, honest))
        np.testing.assert_allclose(float(loss), float(honest), rtol=1e-4)
        scale = np.abs(straight).max()
        np.testing.assert_allclose(np.asarray(turned) / scale, -weight * np.asarray(straight) / scale, atol=1e-4)
        gradients.append((turned, model.get_weights()))
    assert model.adversary_loss(inputs, model.guessed(encodings, False), False) == 0.0


@pytest.mark.parametrize("family", SPEAKING)
def test_without_speakers_a_family_is_what_it_was(family):
    model = FAMILIES[family](SHAPE, preset="tiny")
    assert len(model.decoder.inputs) == 1
    assert model.adversary is None
    assert not {"speakers", "speaker_dropout", "speaker_adversary", "code_map"} & set(model.get_config())
    assert "adversary" not in {metric.name for metric in model.metrics}


@pytest.mark.parametrize("family", SPEAKING)
def test_from_config_and_a_step_in_mixed_precision(family):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make(family, code_map=(2, 8)) if family == "vq-vae" else make(family)
        twin = type(model).from_config(model.get_config())
        model.compile(optimizer="adam")
        logs = [model.train_on_batch(batch(), return_dict=True) for _ in range(2)]
    finally:
        keras.config.set_dtype_policy(before)
    assert twin.get_config() == model.get_config()
    assert all(np.isfinite(value) for log in logs for value in log.values())
    assert logs[0]["adversary"] == pytest.approx(np.log(3), rel=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speakers": ("ann",)}, "two different names"),
        ({"speakers": ("ann", "ann")}, "two different names"),
        ({"speaker_dropout": 1.0}, "speaker_dropout"),
        ({"speaker_adversary": -1.0}, "speaker_adversary"),
    ],
)
@pytest.mark.parametrize("family", SPEAKING)
def test_bad_options_are_refused(family, options, message):
    with pytest.raises(InputError, match=message):
        make(family, **options)


def test_maps_of_other_sizes():
    strides = PRESETS["small"]["strides"]
    for code_map, patch in (((16, 8), (16, 8)), ((4, 8), (64, 8)), ((1, 16), (256, 4)), ((32, 64), (8, 1))):
        found = strides_for(strides, (256, 64, 1), code_map)
        assert patch_shape(found) == patch, found
    for size in range(3, 270, 7):  # whatever the bins, a row is a row, and columns are as many as asked for
        found = strides_for(strides, (size, 64, 1), (1, 16))
        assert reduced_shape((size, 64), found) == (1, 16)
        assert size < 5 or max(stride[0] for stride in found[:-1]) > 1
    model = FAMILIES["vq-vae"]((250, 64, 1), preset="tiny", code_map=(1, 16))
    assert model.encoder.output.shape[1:] == (1, 16)
    features = noise(2, 250, 64, 1)
    assert model.reconstruct(features).shape == features.shape
    with pytest.raises(InputError, match="a single code"):
        FAMILIES["vq-vae"]((250, 64, 1), preset="tiny", code_map=(1, 1), instance_norm=True)
    row = FAMILIES["vq-vae"]((250, 64, 1), preset="tiny", speakers=NAMES)  # a code for two frames
    assert row.encoder.output.shape[1:] == (1, 32)
    spectrum = FAMILIES["vq-vae"]((64, 1, 1), preset="tiny", speakers=NAMES)  # one frame: codes along its bins
    assert spectrum.encoder.output.shape[1:] == (8, 1)
    assert len(np.unique(spectrum.encoder(noise(4, 64, 1, 1)))) > 1
    for bad in ((0, 8), (1, 100), (1,)):
        with pytest.raises(InputError, match="code_map"):
            FAMILIES["vq-vae"]((250, 64, 1), preset="tiny", code_map=bad)


# Batches


def test_batches_carry_who_speaks_in_the_same_order(recordings, representation):
    order = {"shuffle": True, "seed": 3, "first_epoch": 1}
    plain = recordings.features("train", representation, 16, **order).take(5)
    spoken = recordings.spoken(plain, "train", ("reed", "nobody-here"), 16, **order)
    rows = recordings.waveforms("train", 16, numbered=True, **order).take(5)
    examples = recordings.examples("train")
    for features, found, (_, numbers, _) in zip(plain, spoken, rows):
        np.testing.assert_array_equal(found["features"], features)
        assert found["speaker"].dtype == tf.int32
        names = [examples[number].speaker for number in numbers]
        assert found["speaker"].numpy().tolist() == [0 if name == "reed" else 2 for name in names]
    pairs = Corruption("gaussian:3", representation, 0).pairs(recordings, "train", 16, **order).take(2)
    for (noisy, clean), (inputs, target) in zip(pairs, recordings.spoken(pairs, "train", ("reed", "x"), 16, **order)):
        np.testing.assert_array_equal(inputs["features"], noisy)
        np.testing.assert_array_equal(target, clean)


def test_recordings_without_speakers_say_so():
    toy = Recordings.open("toy:harmonic?size=60", samples=SAMPLES)
    with pytest.raises(InputError, match="two at least, all of them named.*pattern"):
        toy.speakers()


# Runs


def options(**changes):
    return training.FitOptions(**{"epochs": 3, "batch_size": 16, "precision": "float32", **changes})


def history(out):
    with open(out / "run" / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def check_resume(family, recordings, representation, tmp_path, monkeypatch):
    """An interrupted run continues as if nothing had happened."""

    def fit(out):
        return training.fit(family, recordings, representation, out, options(), preset="tiny", speakers=True)

    whole = fit(tmp_path / "whole")
    assert whole.speakers == ("flute", "reed")
    metrics = whole.info["metrics"]
    assert metrics["speaker_leak_chance"] == 0.5
    assert 0.3 <= metrics["speaker_leak_accuracy"] <= 1.0
    assert "validation_adversary" not in metrics
    report = json.loads((tmp_path / "whole" / "run" / "diagnostics.json").read_text())
    assert report["speaker_leak"]["split"] == "validation"
    assert "named rightly" in (tmp_path / "whole" / "run" / "verdict.md").read_text()
    with monkeypatch.context() as patch:
        interrupted(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "parts")
    parts = fit(tmp_path / "parts")
    for name in history(tmp_path / "whole")[0]:
        expected, found = ([float(row[name]) for row in history(tmp_path / run)] for run in ("whole", "parts"))
        np.testing.assert_allclose(found, expected, rtol=1e-4 if "loss" in name else 2e-3, err_msg=name)
    for expected, found in zip(whole.conditioned.get_weights(), parts.conditioned.get_weights()):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    training.repeat(tmp_path / "whole" / "run" / "config.json", tmp_path / "again")
    assert Codec.load(tmp_path / "again", verify=True).speakers == ("flute", "reed")


def test_an_interrupted_run_continues_exactly(recordings, representation, tmp_path, monkeypatch):
    """A VAE: tests/nightly/test_exact_resume.py."""
    check_resume("vq-vae", recordings, representation, tmp_path, monkeypatch)


def test_a_diverged_run_with_speakers_is_played_again():
    model = make("vq-vae")
    model.compile(optimizer=keras.optimizers.SGD(1e-3))
    model.optimizer.build(model.trainable_variables)
    layer = model.decoder.get_layer("project")
    layer.kernel.assign(np.full(layer.kernel.shape, np.nan))
    found = first_non_finite(model, lambda: None, [batch()])
    assert found["kind"] == "weight"
    assert "project" in found["name"]
    layer.kernel.assign(noise(*layer.kernel.shape))
    linear, told = (model.decoder.get_layer(name) for name in ("linear", "modulate_linear"))
    linear.bias.assign(np.full(linear.bias.shape, 3e38))
    told.kernel.assign(np.full(told.kernel.shape, 100.0))
    found = first_non_finite(model, lambda: None, [batch()])
    assert (found["kind"], found["name"]) == ("layer", "decoder/modulate_linear")


# Those who know of no speaker


@pytest.mark.parametrize("family", SPEAKING)
def test_figures_of_the_latent_of_a_model_with_speakers(family):
    likelihood = {"likelihood": "gaussian", "linear": "learned"} if family == "vae" else {}
    model = make(family, **likelihood)
    alone, features = conditioning.for_nobody(model.decoder), noise(20, *SHAPE)
    found = diagnose(model.encoder, alone, features)
    error = np.asarray(model.reconstruct(features)) - features
    assert found["rmse_db"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    assert ("calibration" in found) == (family == "vae")


def test_rate_and_worst_case_of_a_model_with_speakers(representation):
    for family in SPEAKING:
        model = make(family, representation.feature_shape(1024))
        codec = Codec(representation, model.encoder, model.decoder, family=family, prior=model.prior)
        features = noise(4, *model.feature_shape)
        found = rate_distortion(codec, features)
        assert found["bits"] > 0.0
        assert ("bound_nats" in found) == (family == "vae")
        np.testing.assert_allclose(gradient_path(codec)(features), codec.reconstruct_features(features), atol=1e-5)


# The leak


def test_a_latent_that_names_the_speaker_leaks_all_and_an_empty_one_nothing():
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 300)
    told = np.eye(3)[classes]
    for points, least, most in ((told, 1.0, 1.0), (np.zeros((300, 4)), 0.0, 0.5), (random.random((300, 4)), 0.0, 0.5)):
        found = classified(points[:200], classes[:200], points[200:], classes[200:])
        assert least <= found["accuracy"] <= most
        assert found["chance"] == np.bincount(classes[200:]).max() / 100
    with pytest.raises(InputError, match="received none"):
        classified(told[:0], classes[:0], told, classes)


def test_codes_are_counted_and_looked_up(representation):
    model = make("vq-vae", representation.feature_shape(1024), codebook_size=16, stages=2)
    codec = Codec(representation, model.encoder, model.decoder)
    features = noise(3, *model.feature_shape)
    points, codes = points_of(codec, features), np.asarray(model.encoder(features))
    positions = codes[0, ..., 0].size
    assert points.shape == (3, 32 + 8 * positions)
    np.testing.assert_allclose(np.square(points[:, :32]).sum(axis=1), 2 * positions, rtol=1e-5)
    assert points[0, codes[0, 0, 0, 0]] > 0
    np.testing.assert_allclose(points[:, 32:], np.asarray(model.quantiser.lookup(codes)).reshape(3, -1))


@pytest.mark.parametrize("prior", [None, {}, {"speaker": ("cyd", "ann", "zoe")}], ids=["normal", "open", "speakers"])
def test_drawn_sounds_are_spoken_by_whom_is_asked_for(representation, prior):
    model = make("vae", representation.feature_shape(SAMPLES))
    codec = Codec(representation, model.encoder, model.decoder, prior=model.prior, family="vae")
    if prior is not None:
        learned = PRIORS["mixture"](codec.latent_shapes[0], conditions=prior, components=2)
        codec = Codec(representation, model.encoder, model.decoder, family="vae", learned_prior=learned)
    names = ["ann", "cyd"]
    drawn = codec.generate(2, seed=1)
    spoken = codec.generate(2, seed=1, speaker=names)
    assert np.abs(spoken - drawn).max() > 1e-3
    if not prior:  # the same latents in other voices
        latent = codec.encode(drawn)
        assert latent.shape[1:] == (1, *codec.latent_shapes[0])
        np.testing.assert_array_equal(codec.generate(2, seed=1, speaker="ann")[0], spoken[0])
    with pytest.raises(InputError, match="speaker must be one of"):
        codec.generate(1, speaker="dan")

    served = next(endpoint for endpoint in endpoints(codec) if endpoint.name == "generate")
    assert [spec.name for spec in served.inputs] == ["seed", "temperature", "speaker"]
    known = (*codec.learned_prior.conditions["speaker"],) if prior else codec.speakers

    def call(*speakers):
        rows = [known.index(name) if name in known else len(known) for name in speakers]
        count = len(rows)
        return served.function(np.full(count, 5, np.int32), np.ones(count, np.float32), np.int32(rows))["waveform"]

    found = call("ann", "cyd", "nobody")
    np.testing.assert_allclose(found[1:2], call("cyd"), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[0] - found[2]).max() > 1e-3
