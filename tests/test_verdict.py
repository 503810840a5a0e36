"""Verdicts on runs made to fail in each way, and on runs that did not."""

import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from spectrovae import training
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import TrainingError
from spectrovae.evaluation.codes import code_figures
from spectrovae.files import as_json
from spectrovae.models import VAE, UNet
from spectrovae.representations import REPRESENTATIONS as REGISTERED
from spectrovae.training import divergence, examine, verdict

TOY = "toy:harmonic?size=60"


def run(trainer, recordings, representation, epochs, learning_rate=1e-2):
    """Train without a folder, and judge as the end of a fit does: {name: finding}."""
    steps = recordings.steps("train", 16)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps * epochs)
    trainer.compile(optimizer=keras.optimizers.Adam(schedule), jit_compile=False)
    history = trainer.fit(
        recordings.features("train", representation, 16, shuffle=True),
        validation_data=recordings.features("validation", representation, 16),
        epochs=epochs,
        verbose=0,
    ).history
    codec = Codec(representation, trainer.encoder, trainer.decoder, prior=trainer.prior)
    report = examine.examine(codec, recordings, model=trainer.get_config(), history=history)
    json.dumps(as_json(report), allow_nan=False)
    return {finding["name"]: finding for finding in report["findings"]} | {"report": report}


def vae(recordings, representation, **options):
    shape = representation.feature_shape(recordings.samples)
    return VAE(shape, preset="tiny", db_per_unit=representation.db_per_unit, **options)


# Runs that fail


def test_a_likelihood_too_weak_collapses_and_the_spectrum_says_why(recordings, representation):
    """Mean squared error against summed KL: sigma^2 = cells / 2, above every eigenvalue of the data."""
    found = run(vae(recordings, representation, likelihood="alpha_mse", alpha=1.0), recordings, representation, 120)
    finding, law = found["collapsed"], found["report"]["collapse_law"]
    assert law["threshold"] == 64 * 32 / 2
    assert law["predicted_active"] == 0
    features = np.concatenate(list(recordings.features("train", representation).as_numpy_iterator()))
    centred = features.reshape(len(features), -1) - features.reshape(len(features), -1).mean(axis=0)
    eigenvalues = np.linalg.svd(centred, compute_uv=False) ** 2 / (len(features) - 1)
    np.testing.assert_allclose(law["eigenvalues"], eigenvalues[:10], rtol=1e-3)
    assert f"{law['threshold']:.3g}" in finding["text"]
    assert f"{law['eigenvalues'][0]:.3g}" in finding["text"]
    assert finding["change"] == "--likelihood sigma."


def test_a_calibrated_likelihood_on_the_same_data_does_not_collapse(recordings, representation):
    found = run(vae(recordings, representation), recordings, representation, 120)
    assert "collapsed" not in found
    law = found["report"]["collapse_law"]
    assert law["predicted_active"] == law["calibrated_active"] == 8
    assert law["found_active"] >= 4


def test_eight_clips_are_learnt_by_heart(fsdd_folder, representation, tmp_path):
    for speaker in ("george", "jackson"):
        for digit, index in [(0, 10), (3, 11), (6, 12), (9, 13), (1, 5), (7, 6)]:  # 5 to 9 are for validation
            shutil.copy(fsdd_folder / f"{digit}_{speaker}_{index}.wav", tmp_path)
    speech = Recordings.open(tmp_path, samples=1984, split="fsdd", long="crop")
    assert len(speech.examples("train")) == 8
    found = run(vae(speech, representation, latent_dim=16), speech, representation, 200)
    assert "overfitting" in found
    assert "converged" not in found


def test_a_run_stopped_early_asks_for_more_epochs(recordings, representation):
    found = run(vae(recordings, representation), recordings, representation, 12)
    assert "--epochs 24" in found["still_improving"]["change"]
    assert "converged" not in found
    found = run(vae(recordings, representation), recordings, representation, 2)
    assert "too_short" in found
    assert "still_improving" not in found


def test_a_run_away_learning_rate_that_stays_finite(recordings, representation):
    found = run(vae(recordings, representation), recordings, representation, 4, learning_rate=0.9)
    assert "learning-rate" in found["diverged"]["change"]
    assert set(found) == {"diverged", "report"}


def test_a_unet_whose_skips_carry_everything(recordings, representation):
    shape = representation.feature_shape(recordings.samples)
    unet = UNet(shape, preset="tiny", db_per_unit=representation.db_per_unit)
    found = run(unet, recordings, representation, 30)
    skips = found["report"]["diagnostics"]["skips"]["shuffle_rise_db"]
    assert skips > 5.0
    assert f"{skips:.2f} dB" in found["skips_carry_everything"]["text"]

    diagnosis = found["report"]["diagnostics"]
    diagnosis["groups"][0]["shuffle_rise_db"] = 2.0
    assert not verdict.judge({}, diagnosis, {}, {})


# Codebooks and hierarchies, from what a diagnosis says of them


def coded(counts):
    stages = [{"all": code_figures(counts), "active": code_figures(counts)}]
    codes = {"codebook_size": len(counts), "tokens_per_clip": 16, "nominal_bits_per_clip": 128.0, "stages": stages}
    return {"latent": {"dimensions": 16}, "groups": [{}], "codes": codes}


def drawn(weights, tokens):
    return np.bincount(np.random.default_rng(0).choice(len(weights), tokens, p=weights), minlength=len(weights))


@pytest.mark.parametrize(
    ("weights", "tokens", "dying"),
    [
        (np.full(256, 1 / 256), 20_000, False),
        (np.full(256, 1 / 256), 100, False),  # few tokens cannot show many codes
        (np.where(np.arange(256) < 40, 1 / 40, 0.0), 20_000, True),  # few codes in use
        (np.where(np.arange(256) == 0, 0.9, 0.1 / 255), 20_000, True),  # all in use, one of them nearly always
        (np.where(np.arange(256) < 200, 1 / 200, 0.0), 20_000, False),
    ],
)
def test_a_dying_codebook(weights, tokens, dying):
    diagnosis = coded(drawn(weights, tokens))
    findings = verdict.judge({}, diagnosis, {}, {})
    assert [finding.name for finding in findings] == ["codebook_dying"] * dying
    if dying:
        assert f"{np.count_nonzero(drawn(weights, tokens))} of 256 codes" in findings[0].text


def test_the_codes_of_the_training_set_count_where_they_are_known():
    diagnosis = coded(drawn(np.full(64, 1 / 64), 5000))
    assert not verdict.judge({}, diagnosis, {}, {})
    diagnosis["training_codes"] = coded(drawn(np.eye(64)[0], 5000))["codes"]
    assert verdict.judge({}, diagnosis, {}, {})[0].name == "codebook_dying"


@pytest.mark.parametrize(("rises", "unused"), [((2.0, 0.1), [1]), ((0.2, 3.0), [0]), ((1.0, 0.4), [])])
def test_a_level_that_is_not_used(rises, unused):
    groups = [{"name": f"z{i}", "dimensions": 4, "kl_nats": 3.0, "prior_rise_db": rise} for i, rise in enumerate(rises)]
    diagnosis = {"latent": {"dimensions": 8, "active_units": 8, "shuffle_rise_db": 4.0}, "groups": groups}
    findings = verdict.judge({}, diagnosis, {}, {})
    assert [finding.name for finding in findings] == ["level_unused"] * len(unused)
    for finding, index in zip(findings, unused):
        assert finding.text.startswith(f"group {index} ")


# The course of a run, from its history alone


def course(validation, training, stalled=False, **columns):
    history = {"loss": training, "val_loss": validation, "rmse_db": training, "val_rmse_db": validation, **columns}
    diagnosis = {"latent": {"dimensions": 2}, "groups": [{}], "rmse_db": 5.0}
    return [finding.name for finding in verdict.judge(history, diagnosis, {}, {}, stalled=stalled)]


FALLING = np.geomspace(20.0, 5.0, 20)


@pytest.mark.parametrize(
    ("validation", "training", "stalled", "expected"),
    [
        (FALLING, FALLING, False, "still_improving"),
        (FALLING, FALLING, True, "converged"),  # patience ran out: nothing better for long enough
        (4.0 + 4.0 * 0.5 ** np.arange(20), 4.0 + 4.0 * 0.5 ** np.arange(20), False, "converged"),
        (np.r_[FALLING, 5.0 + np.linspace(0, 3, 10)], np.geomspace(20.0, 4.0, 30), False, "overfitting"),
        (np.r_[FALLING, np.full(10, 5.01)], np.r_[FALLING, np.full(10, 4.9)], False, "converged"),  # noise
        (np.r_[FALLING, 5.0 + np.linspace(0, 3, 10)], np.r_[FALLING, 5.0 + np.linspace(0, 3, 10)], False, "converged"),
        (FALLING, FALLING / 2.0, False, "overfitting"),
        (FALLING[:3], FALLING[:3], False, "too_short"),
        (FALLING[:3], FALLING[:3] / 2.0, False, "too_short"),  # not overfitting either
        ([np.nan] * 5, FALLING[:5], False, "diverged"),
        (np.r_[np.nan, FALLING], np.r_[20.0, FALLING], False, "still_improving"),
        (np.full(8, 5.0), np.full(8, 5.0), False, "converged"),
    ],
)
def test_courses(validation, training, stalled, expected):
    assert course(list(validation), list(training), stalled) == [expected]


def test_errors_of_features_that_are_no_levels_are_not_in_db():
    falling = list(np.geomspace(0.5, 0.00123, 30))
    history = dict.fromkeys(("loss", "val_loss", "rmse", "val_rmse"), falling)
    diagnosis = {"latent": {"dimensions": 2}, "groups": [{}], "rmse_db": 18.0, "mean_rmse_db": 7.5}
    (finding,) = verdict.judge(history, diagnosis, {}, {})
    assert finding.name == "worse_than_the_mean"
    assert finding.text.startswith("RMSE of the features 0.00123 on validation at the best epoch, 30 of 30; in dB its ")
    diagnosis["mean_rmse_db"] = 36.0
    (finding,) = verdict.judge(history, diagnosis, {}, {})
    assert finding.name == "still_improving"
    assert "dB" not in finding.text


@pytest.mark.parametrize(("losses", "names"), [
    (np.geomspace(20.0, 5.0, 30), ["worse_than_the_mean"]),
    (np.r_[FALLING[:10], np.full(30, FALLING[9])], ["worse_than_the_mean", "collapsed"]),
])  # fmt: skip
def test_a_latent_that_is_dead_when_the_error_no_longer_falls_has_collapsed(losses, names):
    history = dict.fromkeys(("loss", "val_loss", "rmse_db", "val_rmse_db"), list(losses))
    diagnosis = {
        "latent": {"dimensions": 2, "active_units": 0}, "groups": [{}], "rmse_db": 18.0, "mean_rmse_db": 7.5,
    }  # fmt: skip
    law = {"threshold": 0.05, "predicted_active": 1, "calibrated_active": 2, "found_active": 0, "eigenvalues": [0.06]}
    assert [finding.name for finding in verdict.judge(history, diagnosis, law, {"likelihood": "alpha_mse"})] == names


def test_what_rose_and_what_fell_is_said_as_it_is():
    """The loss may rise while the error falls on, as where the KL divergence grows."""
    loss, error = np.r_[FALLING, np.linspace(5.1, 9.0, 10)], np.geomspace(20.0, 4.0, 30)
    falling = list(np.geomspace(20.0, 3.9, 30))
    history = {"loss": falling, "val_loss": list(loss), "rmse_db": falling, "val_rmse_db": list(error)}
    diagnosis = {"latent": {"dimensions": 2}, "groups": [{}], "rmse_db": 5.0}
    (finding,) = verdict.judge(history, diagnosis, {}, {})
    fell = error[19] - np.mean(error[-3:])
    assert finding.name == "overfitting"
    assert f"and the error fell by {fell:.2f} dB." in finding.text
    history = {"loss": falling, "val_loss": list(loss)}
    assert verdict.judge(history, diagnosis, {}, {})[0].text.count(" rose by ") == 1


def test_diagnose_judges_a_run_that_patience_stopped_as_its_fit_did(tmp_path, monkeypatch):
    monkeypatch.setattr(examine, "data_of", lambda *_: {})
    monkeypatch.setattr(examine, "examine", lambda *_, **how: how)
    for info, stalled in (({"stalled": True}, True), ({"stalled": False}, False), ({}, False)):
        found = examine.examine_bundle(tmp_path, None, SimpleNamespace(info=info), "test")
        assert found["stalled"] is stalled


def test_overfitting_is_told_what_has_not_been_tried():
    train, validation = list(FALLING / 2.0), list(FALLING)
    history = {"loss": train, "val_loss": validation, "rmse_db": train, "val_rmse_db": validation}
    diagnosis = {"latent": {"dimensions": 2}, "groups": [{}], "rmse_db": 5.0}
    changes = [
        verdict.judge(history, diagnosis, {}, model)[0].change
        for model in ({"time_stretch": 0.0}, {"time_stretch": 0.15}, {"skips": True})
    ]
    assert "--time-stretch" in changes[0]
    assert changes[1] == changes[2]
    assert "--time-stretch" not in changes[1]


def test_dimensions_are_named_in_ranges():
    assert verdict.ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert verdict.ranges(np.array([], int)) == "none"


@pytest.mark.parametrize(
    ("model", "sigma_squared"),
    [
        ({"likelihood": "sigma", "alpha": 1e6}, 0.0025),
        ({}, 0.0025),
        ({"likelihood": "alpha_mse", "alpha": 1e6}, 0.0905**2),  # the published weight: 7.2 dB of 80
        ({"likelihood": "alpha_rmse", "alpha": 1e6}, 0.0286**2),
        ({"likelihood": "fixed", "sigma": 0.3}, 0.09),
        ({"likelihood": "bernoulli"}, None),
    ],
)
def test_the_threshold_of_the_collapse_law(model, sigma_squared):
    """D = 16 384 cells, error 0.05: the first eigenvalues of spoken digits, as published, and smaller ones."""
    spectrum = np.array([65, 24.5, 10.3, 7.4, 6.3, 0.02, 0.005, 0.001])
    diagnosis = {"latent": {"dimensions": 7, "active_units": 5}, "groups": [], "mean_squared_error": 0.05**2}
    law = verdict.collapse_law(spectrum, {**model, "beta": 2.0}, diagnosis, 16_384)
    if sigma_squared is None:
        assert law["threshold"] is None
        return
    assert law["sigma_squared"] == pytest.approx(sigma_squared, rel=5e-3)
    assert law["predicted_active"] == np.sum(spectrum > 2.0 * sigma_squared)
    assert law["calibrated_active"] == 7


def test_where_no_direction_would_live_nothing_else_is_blamed():
    """Training clips that are all alike, or a single one."""
    for spectrum in (np.zeros(3), np.zeros(0)):
        latent = {"dimensions": 2, "active_units": 0, "shuffle_rise_db": 0.0}
        diagnosis = {"latent": latent, "groups": [{}], "mean_squared_error": 0.01, "rmse_db": 1.0}
        law = verdict.collapse_law(spectrum, {}, diagnosis, 100)
        (finding,) = verdict.judge({}, diagnosis, law, {})
        assert "so 0 dimensions would live, and 0 with a calibrated sigma. The training clips differ" in finding.text
        assert finding.change == "recordings that differ more."


# Divergence


@pytest.fixture
def trainer():
    model = VAE((64, 16, 1), preset="tiny", linear="learned")
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def clips(count=8):
    return np.random.default_rng(0).uniform(size=(count, 64, 16, 1)).astype(np.float32)


def replayed(trainer, batches):
    return divergence.first_non_finite(trainer, divergence.Snapshot(trainer).put_back, batches)


def test_a_sound_epoch_has_nothing_to_name(trainer):
    assert replayed(trainer, [clips(), clips()]) is None


def test_a_batch_that_is_not_finite(trainer):
    spoilt = clips()
    spoilt[3, 5, 2] = np.nan
    found = replayed(trainer, [clips(), spoilt])
    assert (found["step"], found["kind"]) == (2, "features")


def test_a_weight_that_is_not_finite(trainer):
    weight = trainer.decoder.get_layer("up_1").bias
    weight.assign([np.nan, *np.zeros(weight.shape[0] - 1)])
    assert replayed(trainer, [clips()]) == {"step": 1, "kind": "weight", "name": "decoder/up_1/bias"}


def test_a_layer_that_overflows(trainer):
    kernel = trainer.decoder.get_layer("up_1").kernel
    kernel.assign(np.full(kernel.shape, 3e38))
    found = replayed(trainer, [clips()])
    assert (found["kind"], found["name"]) == ("layer", "decoder/up_1")


class Rooted(VAE):
    """Its loss is finite, and the gradient of a root at zero is not."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sqrt(ops.sum(ops.square(0.0 * y_pred["features"])))


def test_a_gradient_that_is_not_finite():
    model = Rooted((64, 16, 1), preset="tiny")
    model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    found = replayed(model, [clips()])
    assert found["kind"] == "gradient"
    assert found["name"].startswith("decoder/")  # it begins at the decoder's end


def test_an_update_that_is_not_finite(trainer):
    trainer.compile(optimizer=keras.optimizers.SGD(1e39), jit_compile=False)
    trainer.optimizer.build(trainer.trainable_variables)
    found = replayed(trainer, [clips()])
    assert found["kind"] == "update"
    assert found["name"].startswith("encoder/")


def test_a_fit_that_diverges_names_the_loss_term(recordings, representation, tmp_path):
    """alpha overflows float32; nothing was saved, and the verdict is there all the same."""
    options = training.FitOptions(epochs=2, batch_size=16, precision="float32")
    with pytest.raises(TrainingError, match=r"diverged in epoch 1.*--learning-rate.*loss term reconstruction"):
        training.fit(
            "vae", recordings, representation, tmp_path / "run", options, preset="tiny", likelihood="alpha_mse",
            alpha=1e39,
        )  # fmt: skip
    text = (tmp_path / "run" / "run" / "verdict.md").read_text()
    assert "step 1 of epoch 1" in text
    assert "loss term reconstruction" in text
    assert json.loads((tmp_path / "run" / "run" / "diagnostics.json").read_text())["findings"][0]["name"] == "diverged"


class Spoil(keras.callbacks.Callback):
    """Damages a weight in the middle of an epoch, as a bad memory cell would: playing it again does not."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 4:
            self.model.decoder.get_layer("up_0").bias.assign([np.nan] * 16)


def test_a_divergence_that_does_not_happen_again(recordings, representation, tmp_path, monkeypatch):
    original = keras.Model.fit
    monkeypatch.setattr(
        keras.Model, "fit", lambda self, *a, callbacks=(), **k: original(self, *a, callbacks=[*callbacks, Spoil()], **k)
    )
    options = training.FitOptions(epochs=3, batch_size=16, precision="float32")
    with pytest.raises(TrainingError, match="diverged in epoch 2.*stayed finite when"):
        training.fit("vae", recordings, representation, tmp_path / "run", options, preset="tiny")
    assert Codec.load(tmp_path / "run", verify=True).info["epoch"] == 1


# The command


def test_diagnose_prints_what_the_fit_found(recordings, representation, tmp_path, capsys):
    options = training.FitOptions(epochs=2, batch_size=16, precision="float32")
    bundle = tmp_path / "model"
    training.fit("vae", recordings, representation, bundle, options, preset="tiny")
    kept = json.loads((bundle / "run" / "diagnostics.json").read_text())
    capsys.readouterr()
    assert main(["diagnose", str(bundle), "--data", TOY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == kept["findings"]
    assert found["collapse_law"]["found_active"] == kept["collapse_law"]["found_active"]
    shutil.rmtree(bundle / "run")
    assert main(["diagnose", str(bundle), "--data", TOY, "--split", "train"]) == 0
    text = capsys.readouterr().out
    assert "PCA spectrum" in text
    assert f"clips                  {len(recordings.examples('train'))}" in text


@pytest.mark.parametrize("unit", [1.0, 0.001])
def test_what_is_unused_does_not_depend_on_the_unit(unit):
    """An exchange that triples the error shows a latent in use, however small the errors are."""
    diagnosis = {
        "latent": {"dimensions": 8, "shuffle_rise_db": 2.0 * unit}, "groups": [{}], "rmse_db": unit,
        "mean_rmse_db": 2.0 * unit,
    }  # fmt: skip
    assert verdict.judge({}, diagnosis, {}, {}) == []
    diagnosis["latent"]["shuffle_rise_db"] = 0.05 * unit
    assert [finding.name for finding in verdict.judge({}, diagnosis, {}, {})] == ["collapsed"]


def test_what_the_law_forbids_is_collapsed_before_the_mean_is_learnt():
    diagnosis = {"latent": {"dimensions": 8, "shuffle_rise_db": 0.0}, "rmse_db": 9.0, "mean_rmse_db": 3.0}
    law = {
        "threshold": 512.0, "predicted_active": 0, "found_active": 0, "calibrated_active": 8,
        "eigenvalues": [0.05, 0.01],
    }  # fmt: skip
    mean, finding = verdict.judge({}, diagnosis, law, {"likelihood": "alpha_mse"})
    assert mean.name == "worse_than_the_mean"
    assert (finding.name, finding.change) == ("collapsed", "--likelihood sigma.")
    [only] = verdict.judge({}, diagnosis, law | {"predicted_active": 4}, {"likelihood": "alpha_mse"})
    assert only.name == "worse_than_the_mean"


# No finding contradicts another

COURSES = {"converged", "still_improving", "too_short", "worse_than_the_mean", "overfitting", "diverged"}
CURVES = st.lists(st.one_of(st.floats(1e-3, 1e3), st.just(float("nan"))), min_size=1, max_size=30)


@settings(max_examples=300)
@given(CURVES, CURVES, st.booleans(), st.booleans(), st.sampled_from([0.0, 0.9, 1.5, 30.0, float("nan")]), st.data())
def test_a_verdict_never_contradicts_itself(validation, training, stalled, first, times, data):
    epochs = min(len(validation), len(training))
    course_of = {"val_loss": validation[:epochs], "val_rmse_db": validation[:epochs]}
    history = {"loss": training[:epochs], "rmse_db": training[:epochs], **course_of} if data.draw(st.booleans()) else {}
    rise, active = data.draw(st.floats(-1.0, 5.0)), data.draw(st.integers(0, 8))
    diagnosis = {
        "rmse_db": 4.0 * times if times else 4.0, "latent": {"shuffle_rise_db": rise, "dimensions": 8,
        "active_units": active}, "groups": [{"mean_variance": [1.0] * active + [0.0] * (8 - active)}],
        **({"mean_rmse_db": 4.0} if times else {}),
    }  # fmt: skip
    law = {"threshold": 1.0, "eigenvalues": [2.0], "predicted_active": data.draw(st.integers(0, 8)),
           "calibrated_active": 8, "found_active": active}  # fmt: skip
    findings = verdict.judge(history, diagnosis, law, {}, stalled=stalled, first=first)
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names))
    found = COURSES & set(names)
    assert len(found) == 1 if history else found <= {"worse_than_the_mean", "diverged"}
    worse = not times <= verdict.UNTRAINED
    assert not worse or found <= {"worse_than_the_mean", "diverged", "too_short"}
    assert worse or "worse_than_the_mean" not in names
    if "diverged" in names and not times <= verdict.EXPLODED:
        assert names == ["diverged"]
    for finding in findings:
        assert not (stalled and "with --resume" in finding.change and finding.name != "too_short")
        assert "more epochs will not help" not in finding.text or "--epochs" not in finding.change
        assert finding.name == "converged" or finding.change


# The mean of the training clips, in dB of the level


class Answer(keras.layers.Layer):
    """Gives every clip the same features."""

    def __init__(self, features, **kwargs):
        super().__init__(**kwargs)
        self.features = np.asarray(features, np.float32)

    def call(self, latent):
        return ops.broadcast_to(self.features, (ops.shape(latent)[0], *self.features.shape)) + 0.0 * ops.mean(latent)

    def compute_output_spec(self, latent):
        return keras.KerasTensor((latent.shape[0], *self.features.shape))


REPRESENTATIONS = [
    ("log-stft", {"n_fft": 128, "hop_length": 64}),
    ("log-stft", {"n_fft": 128, "hop_length": 64, "normalisation": "per_bin"}),
    ("log-stft", {"n_fft": 128, "hop_length": 64, "normalisation": "per_example"}),
    ("log-mel", {"n_fft": 128, "hop_length": 64, "n_mels": 20}),
    ("magnitude-phase", {"n_fft": 128, "hop_length": 64}),
    ("magnitude-phase", {"n_fft": 128, "hop_length": 64, "phase": "instantaneous_frequency"}),
    ("mdct", {"frame_length": 128}),
    ("mdct", {"frame_length": 128, "companding": "linear", "normalisation": "per_bin"}),
    ("mdct", {"frame_length": 128, "companding": "asinh", "normalisation": "per_example"}),
    ("spectrum", {}),
    ("spectrum", {"scale": "linear"}),
    ("spectrum", {"scale": "linear", "normalisation": "per_example"}),
    ("spectrum", {"content": "magnitude_phase"}),
    ("spectrum", {"content": "mdct", "scale": "linear"}),
]


@pytest.mark.parametrize(("name", "options"), REPRESENTATIONS)
def test_the_mean_of_the_training_clips_is_measured_in_db_of_the_level(name, options, recordings):
    """Its figure is computed here by NumPy, and a codec that answers the mean has just that error."""
    representation = REGISTERED[name](8000, max_db=-5.0, **options)
    representation.build(None)
    representation.adapt(recordings.waveforms("train"))
    train, test = (np.concatenate(list(recordings.waveforms(split))) for split in ("train", "test"))
    mean = np.mean(np.asarray(representation(train), np.float64), axis=0)
    shape = representation.feature_shape(recordings.samples)
    inputs, latent = keras.Input(shape), keras.Input((2,))
    encoder = keras.Model(
        inputs, keras.layers.Lambda(lambda x: ops.mean(x, axis=(1, 2))[:, :1] * ops.ones((1, 2)))(inputs)
    )
    codec = Codec(representation, encoder, keras.Model(latent, Answer(mean)(latent)))
    report = examine.examine(codec, recordings, split="test")

    db = np.asarray(representation.decibels(test))
    known = representation.statistics(db) if representation.normalisation == "per_example" else None
    answers = np.broadcast_to(mean.astype(np.float32), (len(test), *shape))
    before, after = (
        np.asarray(representation.to_db(x, known), np.float64)[..., 0] for x in (representation(test), answers)
    )
    expected = np.sqrt(np.mean((after - before) ** 2))
    found = report["diagnostics"]
    assert found["mean_rmse_db"] == pytest.approx(expected, rel=1e-3)
    assert found["rmse_db"] == pytest.approx(expected, rel=1e-3)
    assert found["clips"] == len(test)
    assert f"error                  {expected:.2f} dB (the mean of the training clips: {expected:.2f})" in (
        examine.figures_text(report)
    )


def test_the_law_takes_the_sigma_of_the_decoder():
    """Not the error, in whose place it would have another threshold."""
    diagnosis = {
        "latent": {"dimensions": 7, "active_units": 5}, "groups": [], "mean_squared_error": 0.05**2, "sigma": [0.3],
    }  # fmt: skip
    law = verdict.collapse_law(np.array([65, 1.0, 0.08, 0.02]), {"beta": 2.0}, diagnosis, 16_384)
    assert law["sigma_squared"] == pytest.approx(0.09)
    assert (law["predicted_active"], law["calibrated_active"]) == (2, 2)
    np.testing.assert_allclose(verdict.channel_scale(np.array([3.0, 4.0])) ** 2, np.array([9.0, 16.0]) / 12.5)


def test_the_report_has_the_sigma_that_the_layer_keeps(recordings, representation):
    trainer = vae(recordings, representation)
    trainer.decoder.get_layer("sigma").log_sigma.assign([np.log(0.07)])
    report = examine.examine(Codec(representation, trainer.encoder, trainer.decoder), recordings, model={"beta": 1.0})
    assert report["collapse_law"]["sigma_squared"] == pytest.approx(0.07**2, rel=1e-5)


def test_reports_are_json_whatever_made_the_numbers():
    made = {"a": np.float32(0.5), "b": np.array([1, 2]), "c": [np.float64("nan"), float("inf")], 3: (np.bool_(True),)}
    assert json.loads(json.dumps(as_json(made), allow_nan=False)) == {
        "a": 0.5, "b": [1, 2], "c": [None, None], "3": [True],
    }  # fmt: skip
