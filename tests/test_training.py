"""Runs: exact resume, interruption at any moment, what is refused, what is kept."""

import json

import keras
import numpy as np
import pytest
from interrupts import history, interrupted

from spectrovae import training
from spectrovae.codec import Codec
from spectrovae.errors import InputError, TrainingError
from spectrovae.representations import LogSTFT
from spectrovae.training.callbacks import KeepRun

TOY = "toy:harmonic?size=60"


def options(**changes):
    return training.FitOptions(**{"epochs": 4, "batch_size": 16, "precision": "float32", **changes})


def fit(recordings, representation, out, family="vae", changes=None, **kwargs):
    return training.fit(family, recordings, representation, out, options(**changes or {}), preset="tiny", **kwargs)


def check_resume(family, recordings, representation, tmp_path, monkeypatch):
    """An interrupted run continues as if nothing had happened."""
    whole = fit(recordings, representation, tmp_path / "whole", family)
    with monkeypatch.context() as patch:
        interrupted(patch, epoch=2)
        with pytest.raises(KeyboardInterrupt):
            fit(recordings, representation, tmp_path / "parts", family)
    assert len(history(tmp_path / "parts")) == 2
    assert Codec.load(tmp_path / "parts", verify=True).info["finished"] is False

    parts = fit(recordings, representation, tmp_path / "parts", family)
    columns = list(history(tmp_path / "whole")[0])
    assert {"loss", "val_loss"} <= set(columns)
    assert ({"active_units", "mutual_information"} <= set(columns)) == (family == "vae")
    for name in columns:
        expected, found = ([float(row[name]) for row in history(tmp_path / run)] for run in ("whole", "parts"))
        np.testing.assert_allclose(found, expected, rtol=1e-5 if "loss" in name else 1e-3)
    for expected, found in zip(whole.decoder.get_weights(), parts.decoder.get_weights()):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_interrupted_run_continues_exactly(recordings, representation, tmp_path, monkeypatch):
    """Other families: tests/nightly/test_exact_resume.py."""
    check_resume("vae", recordings, representation, tmp_path, monkeypatch)


def test_ctrl_c_in_the_first_epoch_leaves_a_usable_model(recordings, representation, tmp_path, monkeypatch):
    interrupted(monkeypatch, epoch=0)
    with pytest.raises(KeyboardInterrupt):
        fit(recordings, representation, tmp_path / "run")
    codec = Codec.load(tmp_path / "run", verify=True)
    assert codec.reconstruct(np.zeros((1, 500), np.float32)).shape == (1, 500)


def test_the_best_epoch_is_kept_and_stalling_stops(recordings, representation, tmp_path, monkeypatch):
    losses = iter([5.0, 3.0, 4.0, 3.5, 3.4, 1.0])
    original = KeepRun.on_epoch_end

    def scripted(self, epoch, logs=None):
        original(self, epoch, {**logs, "val_loss": next(losses)})

    monkeypatch.setattr(KeepRun, "on_epoch_end", scripted)
    codec = fit(recordings, representation, tmp_path / "run", changes={"epochs": 6, "patience": 3})
    assert codec.info["epoch"] == 2
    assert codec.info["epochs"] == 5
    assert codec.info["stalled"] is True
    assert [float(row["val_loss"]) for row in history(tmp_path / "run")] == [5.0, 3.0, 4.0, 3.5, 3.4]


def test_a_diverging_run_says_so_and_keeps_the_model_before(recordings, representation, tmp_path, monkeypatch):
    original = KeepRun.on_epoch_end

    def scripted(self, epoch, logs=None):
        original(self, epoch, {**logs, "loss": float("nan")} if epoch == 1 else logs)

    monkeypatch.setattr(KeepRun, "on_epoch_end", scripted)
    with pytest.raises(TrainingError, match="diverged in epoch 2.*learning-rate"):
        fit(recordings, representation, tmp_path / "run")
    assert Codec.load(tmp_path / "run", verify=True).info["epoch"] == 1


def test_what_a_run_keeps(recordings, representation, tmp_path, capsys):
    out = tmp_path / "run"
    codec = fit(recordings, representation, out, warmup_epochs=2)
    config = json.loads((out / "run" / "config.json").read_text())
    assert config["model"]["warmup_steps"] == 2 * recordings.steps("train", 16)
    rows = history(out)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"rmse_db", "kl", "reconstruction", "val_rmse_db", "val_kl"} <= set(rows[0])
    assert (out / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    events = [tag for file in (out / "run" / "logs").iterdir() for tag in tags(file)]
    assert {"loss", "val_rmse_db", "original | reconstruction", "original", "reconstruction"} <= set(events)
    assert codec.info["finished"] is True

    # The figures kept are those of the model kept: recomputed from the saved parts, in dB.
    batch = np.concatenate(list(recordings.features("validation", representation).as_numpy_iterator()))
    error = (codec.reconstruct_features(batch) - batch) * representation.dynamic_range
    assert codec.info["metrics"]["validation_rmse_db"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    means = np.asarray(codec.encoder(batch))
    assert codec.info["metrics"]["active_units"] == np.sum(means.var(axis=0) > 0.01)

    # The verdict is on paper, in JSON, and in what was printed last.
    report = json.loads((out / "run" / "diagnostics.json").read_text())
    assert codec.info["findings"] == [finding["name"] for finding in report["findings"]]
    printed = capsys.readouterr().err.rstrip().splitlines()[-len(report["findings"]) :]
    for finding, line in zip(report["findings"], printed):
        assert finding["text"] in (out / "run" / "verdict.md").read_text()
        assert finding["text"] in line
        assert finding["change"] in line


def tags(file):
    import tensorflow as tf

    return [
        value.tag
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        for value in tf.compat.v1.Event.FromString(record).summary.value
    ]


def test_one_json_repeats_the_run(recordings, representation, tmp_path):
    fit(recordings, representation, tmp_path / "first", latent_dim=3, beta=0.5)
    training.repeat(tmp_path / "first" / "run" / "config.json", tmp_path / "again")
    assert history(tmp_path / "again") == history(tmp_path / "first")


def test_existing_output_is_never_overwritten_unasked(recordings, representation, tmp_path):
    out = tmp_path / "run"
    fit(recordings, representation, out)
    before = (out / "codec.json").read_bytes()
    with pytest.raises(InputError, match="finished.*--force"):
        fit(recordings, representation, out)
    with pytest.raises(InputError, match="other settings .*model.beta.*--force"):
        fit(recordings, representation, out, beta=2.0)
    with pytest.raises(InputError, match="other settings .*epochs"):
        fit(recordings, representation, out, changes={"epochs": 5})
    assert (out / "codec.json").read_bytes() == before

    longer = fit(recordings, representation, out, changes={"epochs": 6}, resume=True)
    assert len(history(out)) == 6
    assert longer.info["epochs"] == 6
    fit(recordings, representation, out, changes={"epochs": 1}, force=True)
    assert len(history(out)) == 1

    strange = tmp_path / "thesis"
    strange.mkdir()
    (strange / "chapter.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(InputError, match="holds no spectrovae bundle"):
            fit(recordings, representation, strange, force=force)
    assert (strange / "chapter.tex").read_text() == "years of work"
    with pytest.raises(InputError, match="is a file"):
        fit(recordings, representation, strange / "chapter.tex")


def test_a_damaged_state_is_named(recordings, representation, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupted(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            fit(recordings, representation, out)
    state = out / "run" / "state.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match="state.npz is damaged.*--force"):
        fit(recordings, representation, out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1 and below 2\\^31, received 0"),
        ({"learning_rate": -1.0}, "learning_rate must lie between 0 and 1"),
        ({"precision": "float8"}, "precision must be one of"),
    ],
)
def test_wrong_options(changes, message, recordings, representation, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(recordings, representation, tmp_path / "run", changes=changes)
    assert not (tmp_path / "run").exists()


def test_what_is_saved_is_float32_whatever_it_was_trained_in(recordings, representation, tmp_path):
    before = keras.config.dtype_policy().name
    codec = fit(recordings, representation, tmp_path / "run", changes={"epochs": 1, "precision": "mixed_bfloat16"})
    assert keras.config.dtype_policy().name == before
    assert {layer.compute_dtype for layer in (*codec.encoder.layers, *codec.decoder.layers)} == {"float32"}
    assert codec.info["precision"] == "mixed_bfloat16"
    assert np.isfinite(codec.info["metrics"]["validation_loss"])


@pytest.mark.parametrize("normalisation", ["per_bin", "per_example"])
def test_every_normalisation_trains(normalisation, recordings, tmp_path):
    representation = LogSTFT(8000, n_fft=128, hop_length=64, normalisation=normalisation, phase_iterations=2)
    fit(recordings, representation, tmp_path / "run", changes={"epochs": 1})
    codec = Codec.load(tmp_path / "run", verify=True)
    sound = next(iter(recordings.waveforms("test"))).numpy()[:2]
    assert np.isfinite(codec.reconstruct(sound)).all()
