"""The run folder: who may write it, what a refused or interrupted fit leaves there, and what a damaged one says."""

import contextlib
import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from interrupts import history, killed, signalled, stopping
from mutations import damage_run
from tones import write_tones

from spectrovae import models, training
from spectrovae.bundle import read_description
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError, StorageError
from spectrovae.models.base import count_weights
from spectrovae.training import callbacks, examine, state
from spectrovae.training.callbacks import Interruption, KeepRun
from spectrovae.training.loop import Training
from spectrovae.training.run import Run

fitting = importlib.import_module("spectrovae.training.fit")  # the package has a function of this name


def options(**changes):
    return training.FitOptions(**{"epochs": 2, "batch_size": 16, "precision": "float32", **changes})


def fit(recordings, representation, out, changes=None, **kwargs):
    return training.fit(
        "autoencoder", recordings, representation, out, options(**changes or {}), preset="tiny", **kwargs
    )


def contents(folder):
    """Every file of a folder by its path, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(recordings, representation, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "model"
    fit(recordings, representation, out)
    return out


@pytest.fixture
def model(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "model")


@contextlib.contextmanager
def held(folder):
    """Another process holds the lock of a folder."""
    code = """
import sys
from spectrovae import files
with files.locked(sys.argv[1], "spectrovae fit"):
    print(flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.communicate("\n")


def write_tones_and_table(folder):
    """Recordings in ``audio/deep``, and beside ``audio`` a table that labels them low or high."""
    (folder / "audio").mkdir(parents=True)
    names = sorted(path.name for path in tones_in(folder / "audio" / "deep").glob("*.wav"))
    lines = [f"{name},{'low' if name[0] == '0' else 'high'}" for name in names]
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]))


def tones_in(folder):
    folder.mkdir()
    return write_tones(folder, takes=6)


# Two writers


def test_a_second_writer_is_told_who_holds_the_lock(recordings, representation, model):
    before = contents(model)
    with held(model) as pid:
        for second in (
            lambda: fit(recordings, representation, model, force=True),
            lambda: training.repeat(model / "run" / "config.json", model, force=True),
            lambda: training.fit_prior(model, recordings),
        ):
            with pytest.raises(InputError, match=f"is in use by spectrovae fit, process {pid} "):
                second()
    assert contents(model) == before


def test_two_fits_of_one_judge(tmp_path):
    tones = Recordings.open(tones_in(tmp_path / "tones"), samples=1008)
    with held(tmp_path / "judge.run"), pytest.raises(InputError, match="is in use by"):
        training.fit_judge("label", tones, tmp_path / "judge")
    assert not (tmp_path / "judge").exists()


# Refused


def test_a_fit_that_is_refused_leaves_nothing(recordings, representation, tmp_path, capsys):
    out = tmp_path / "deep" / "model"
    empty = Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=1984)
    empty._source.examples["validation"] = []
    for refused, says in (
        (lambda: fit(empty, representation, out), "the validation split is empty"),
        (lambda: fit(recordings, representation, out, {"adversarial_from": 1}), "two stages"),
        (
            lambda: fit(recordings, representation, out, {"corrupt": "uniform:10"}, time_stretch=0.1),
            "cannot be trained",
        ),
        (lambda: fit(recordings, representation, out, latent_dim=-1), "latent_dim"),
        (lambda: training.repeat(tmp_path / "no.json", out), "cannot repeat"),
    ):
        with pytest.raises(InputError, match=says):
            refused()
        assert not list(tmp_path.iterdir())
    assert main(["fit", "vae", "--data", str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert not list(tmp_path.iterdir())


def test_a_fit_refused_for_its_data_takes_the_mended_ones(tmp_path, capsys):
    """As in failed_then_mended: a single recording leaves the validation split empty."""
    many = tones_in(tmp_path / "many")
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(next(iter(sorted(many.glob("*.wav")))), one)
    command = ["fit", "autoencoder", "--preset", "tiny", "--epochs", "1", "--out", str(tmp_path / "out"), "--data"]
    assert main([*command, str(one)]) == 2
    assert "split is empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [["--beta", "2"], ["vae"], ["--preset", "tiny"], ["--sample-rate", "8000"]])
def test_what_a_config_has_settled_is_refused_beside_it(given, tmp_path, capsys):
    assert main(["fit", *given, "--config", str(tmp_path / "c.json"), "--out", str(tmp_path / "out")]) == 2
    assert "cannot be given beside it" in capsys.readouterr().err


# Repeated


def repeated(config, out, monkeypatch, **changes):
    """The trainer and options with which a config would be trained again."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", lambda *args, **kwargs: seen.append(args))
        training.repeat(config, out, **changes)
    return seen[0][0], seen[0][4]


def test_a_config_repeats_its_warm_up_and_takes_changes(recordings, representation, tmp_path, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", lambda *args, **kwargs: seen.append(args))
        training.fit(
            "hierarchical-vae", recordings, representation, tmp_path / "a", options(epochs=9), preset="tiny",
            warmup_epochs=7,
        )  # fmt: skip
    trainer = seen[0][0]
    assert trainer.warmup_steps == 7 * recordings.steps("train", 16)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(fitting.run_config(trainer, representation, recordings, options(epochs=9))))
    again, same = repeated(config, tmp_path / "b", monkeypatch)
    assert again.warmup_steps == trainer.warmup_steps
    assert (same.epochs, same.precision) == (9, "float32")
    _, changed = repeated(config, tmp_path / "b", monkeypatch, data="toy:harmonic?size=60", epochs=4)
    assert changed.epochs == 4
    with pytest.raises(InputError, match="not those of the run"):
        training.repeat(config, tmp_path / "b", data="toy:harmonic?size=70")


def test_a_config_whose_data_and_table_moved_is_repeated(representation, tmp_path, monkeypatch, capsys):
    write_tones_and_table(tmp_path / "before")
    settings = {"sample_rate": 8000, "samples": 1984, "split": "hash"}
    data = Recordings.open(tmp_path / "before" / "audio", labels=tmp_path / "before" / "labels.csv", **settings)
    trainer = types.SimpleNamespace(get_config=dict, dtype_policy=types.SimpleNamespace(name="float32"))
    config = fitting.run_config(trainer, representation, data, options()) | {"family": "autoencoder"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": {"preset": "tiny"}}))
    os.rename(tmp_path / "before", tmp_path / "after")
    capsys.readouterr()
    repeated(tmp_path / "config.json", tmp_path / "out", monkeypatch, data=str(tmp_path / "after" / "audio"))
    assert capsys.readouterr().err.count("recordings") == data.describe().count("recordings")  # they are said once
    table = tmp_path / "after" / "labels.csv"
    table.write_text(table.read_text().replace("low", "deep"))
    with pytest.raises(InputError, match="labels or speakers of .*audio are not those of the run"):
        training.repeat(tmp_path / "config.json", tmp_path / "out", data=str(tmp_path / "after" / "audio"))
    (tmp_path / "config.json").write_text(json.dumps({"options": {}}))
    with pytest.raises(InputError, match="cannot repeat .*: 'precision' is missing or unknown"):
        training.repeat(tmp_path / "config.json", tmp_path / "out")


# Force


def test_forced_and_interrupted_in_the_first_epoch_the_old_model_stays(
    recordings, representation, model, monkeypatch, capsys
):
    before = contents(model)
    for action in (signalled(signal.SIGTERM), killed):
        with monkeypatch.context() as patch:
            stopping(patch, 0, 0, action)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                fit(recordings, representation, model, {"epochs": 5, "checkpoint_every": 1e-9}, force=True)
        assert contents(model) == before
    assert "is as it was" in capsys.readouterr().err


def test_forced_it_removes_only_what_a_run_writes(recordings, representation, model, tmp_path):
    """``run`` is a link, and foreign files and folders lie in it."""
    elsewhere = tmp_path / "scratch"
    os.rename(model / "run", elsewhere)
    (model / "run").symlink_to(elsewhere)
    foreign = {".bashrc": "mine", ".ipynb_checkpoints/a.ipynb": "{}", ".nfs01": "busy", "logs/notes.txt": "see"}
    for name, text in foreign.items():
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_text(text)
    fit(recordings, representation, model, {"epochs": 1}, force=True)
    assert (model / "run").is_symlink()
    assert {name: (elsewhere / name).read_text() for name in foreign} == foreign
    assert len(history(model)) == 1
    assert len(list((elsewhere / "logs").glob("events*"))) == 1


def test_a_run_that_cannot_be_a_folder_is_one_line(recordings, representation, tmp_path):
    for name, make in (
        ("file", lambda run: run.write_text("x")),
        ("dangling", lambda run: run.symlink_to("/no/where")),
    ):
        out = tmp_path / name
        out.mkdir()
        (out / "codec.json").write_text("{}")
        make(out / "run")
        with pytest.raises(InputError, match="already holds a model"):
            fit(recordings, representation, out, {"epochs": 1})


def test_forced_a_run_that_cannot_be_written_is_refused_before_it_is_trained(
    recordings, representation, model, monkeypatch
):
    shutil.rmtree(model / "run")
    (model / "run").write_text("a file")
    before = contents(model)
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("it was trained"))
    with pytest.raises(InputError, match="cannot write .*run: Not a directory"):
        fit(recordings, representation, model, force=True)
    assert contents(model) == before


# Continued


def test_a_run_that_patience_stopped_goes_on(recordings, representation, model, capsys):
    """And a prior stays where no epoch is better, with what is known of its data."""
    training.fit_prior(model, recordings, "mixture", preset="tiny", conditions=[])
    codec = Codec.load(model)
    codec.replace(data=codec.data | {"prior": {"fingerprint": "other"}}).save(model)
    file = model / "run" / "state.npz"
    with np.load(file) as kept:
        arrays = dict(kept)
    progress = json.loads(str(arrays["progress"])) | {"waited": 2, "finished": True, "best": -1e30}
    np.savez(file, **(arrays | {"progress": np.array(json.dumps(progress))}))
    codec = fit(recordings, representation, model, {"epochs": 4, "patience": 2}, resume=True)
    assert codec.info["epochs"] == 4  # two more before patience is over again
    assert codec.learned["kind"] == "mixture"
    assert Codec.load(model).data["prior"] == {"fingerprint": "other"}
    said = capsys.readouterr().err
    assert "half cosine of the learning rate" in said
    assert "the learned prior is dropped where an epoch is better" in said


def test_data_that_moved_are_known_by_their_fingerprint(tmp_path, representation):
    first = tones_in(tmp_path / "first")
    settings = {"sample_rate": 8000, "samples": 1984, "split": "hash"}
    before = Recordings.open(first, **settings)
    os.rename(first, tmp_path / "second")
    after = Recordings.open(tmp_path / "second", **settings)
    assert after.fingerprint == before.fingerprint
    trainer = types.SimpleNamespace(get_config=dict, dtype_policy=types.SimpleNamespace(name="float32"))
    config, moved = (fitting.run_config(trainer, representation, data, options()) for data in (before, after))
    assert config != moved
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "config.json").write_text(json.dumps(config))
    assert fitting._check_out(tmp_path / "out", moved, resume=False, force=False, reuse=False) == config
    moved["data"]["fingerprint"] = "0"
    with pytest.raises(InputError, match="other settings .data.fingerprint"):
        fitting._check_out(tmp_path / "out", moved, resume=False, force=False, reuse=False)


def test_a_run_goes_on_with_the_labels_and_speakers_it_began_with(tmp_path, representation):
    write_tones_and_table(tmp_path / "x")
    trainer = types.SimpleNamespace(get_config=dict, dtype_policy=types.SimpleNamespace(name="float32"))
    (tmp_path / "out" / "run").mkdir(parents=True)

    def goes_on(**naming):
        data = Recordings.open(tmp_path / "x" / "audio", sample_rate=8000, samples=1984, split="hash", **naming)
        config = fitting.run_config(trainer, representation, data, options())
        file = tmp_path / "out" / "run" / "config.json"
        if not file.exists():
            file.write_text(json.dumps(config))
        return fitting._check_out(tmp_path / "out", config, resume=False, force=False, reuse=True)

    goes_on()
    goes_on(pattern=r"(?P<label>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)")  # the same names by another pattern
    for changed, named in (
        ({"pattern": r"(?P<speaker>\d)_(?P<label>[a-z]+)_.*"}, "data.labels_and_speakers .*, data.open.pattern"),
        ({"label_from": -1}, "data.labels_and_speakers .*, data.open.label_from not set"),
        ({"labels": tmp_path / "x" / "labels.csv"}, "data.labels_and_speakers .*, data.open.labels not set"),
    ):
        with pytest.raises(InputError, match=named):
            goes_on(**changed)
    os.remove(tmp_path / "out" / "run" / "config.json")
    table = tmp_path / "x" / "labels.csv"
    goes_on(labels=table)
    table.write_text(table.read_text().replace("low", "deep"))
    with pytest.raises(InputError, match="other settings .data.labels_and_speakers."):
        goes_on(labels=table)


def test_the_precision_counts_and_not_how_it_was_chosen(finished):
    config = json.loads((finished / "run" / "config.json").read_text())
    config["options"]["precision"] = "auto"
    assert fitting._check_out(finished, config, resume=False, force=False, reuse=True)
    config["precision"] = "mixed_bfloat16"
    with pytest.raises(InputError, match='other settings .precision "float32".; give'):
        fitting._check_out(finished, config, resume=False, force=False, reuse=True)


def test_what_cannot_be_gone_on_with_is_refused_and_stays(recordings, representation, model):
    file = model / "run" / "state.npz"
    before = contents(model)
    with pytest.raises(InputError, match="has come to epoch 2 already; give --epochs 2 or more"):
        fit(recordings, representation, model, {"epochs": 1}, resume=True)
    assert contents(model) == before
    os.rename(file, model.parent / "state.npz")
    for more in ({}, {"resume": True}, {"reuse": True}):
        with pytest.raises(InputError, match="state.npz is missing"):
            fit(recordings, representation, model, **more)
    os.rename(model.parent / "state.npz", file)
    assert contents(model) == before
    os.remove(model / "codec.json")
    with pytest.raises(InputError, match="lacks the model of epoch"):
        fit(recordings, representation, model, {"epochs": 4}, resume=True)


def test_the_headline_counts_a_shared_layer_once():
    trainer = models.FAMILIES["hierarchical-vae"]((64, 32, 1), preset="tiny")
    once = f"{count_weights(trainer.encoder, trainer.decoder) / 1e6:.2f} M parameters"
    assert once != f"{(trainer.encoder.count_params() + trainer.decoder.count_params()) / 1e6:.2f} M parameters"
    data = types.SimpleNamespace(examples=lambda split: [], sample_rate=8000, samples=1984)
    assert once in fitting._headline(trainer, data, options(), "float32")


def epochs_of(tmp_path, losses, monkeypatch, patience=0):
    """A run of scripted validation losses, and the epochs at which the model was saved."""
    saved = []
    run = Run(tmp_path, {})
    monkeypatch.setattr(Run, "save", lambda self, model: None)
    keep = KeepRun(run, len(losses), 10, patience, lambda: saved.append(run.epoch), 5, 0.0, Interruption())
    keep.set_model(types.SimpleNamespace(stage=1, trainable_variables=[], stop_training=False))
    for epoch, loss in enumerate(losses):
        keep.on_epoch_begin(epoch)
        keep.on_epoch_end(epoch, {"loss": 1.0, "val_loss": loss})
        if keep.model.stop_training:
            break
    return run, saved


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_never_the_best(bad, tmp_path, monkeypatch):
    run, saved = epochs_of(tmp_path, [bad, 1.0, bad, 0.5, 0.6], monkeypatch, patience=3)
    assert saved == [1, 2, 4]
    assert (run.best, run.best_epoch, run.waited) == (0.5, 4, 1)
    run, saved = epochs_of(tmp_path, [bad] * 5, monkeypatch, patience=3)
    assert (run.best, run.epoch, saved) == (None, 3, [1, 2, 3])


# Full disk


def test_a_full_disk_is_one_line_and_the_run_continues(
    recordings, representation, finished, tmp_path, monkeypatch, capsys
):
    out, real = tmp_path / "model", np.savez

    def full(file, **arrays):
        if "progress" in arrays and json.loads(str(arrays["progress"]))["epoch"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(StorageError, match="the disk is full; make room and run the same command again"):
            fit(recordings, representation, out)
    assert Run(out, {}).progress()["epoch"] == 1
    fit(recordings, representation, out)
    assert history(out) == history(finished)


def test_event_files_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    pictures = callbacks.TensorBoardPictures(tmp_path / "logs", None, None)
    with pytest.raises(StorageError, match=r"^cannot write \S+/logs: Not a directory; run the same command again$"):
        pictures.on_epoch_end(1, {"loss": 1.0})
    pictures.close()


# Damaged


@pytest.fixture(scope="module")
def opened(finished, recordings, representation):
    """Opens a run folder as a fit would, up to its first step."""
    config = json.loads((finished / "run" / "config.json").read_text())
    seen = []
    patch = pytest.MonkeyPatch()
    patch.setattr(fitting, "train", lambda *args, **kwargs: seen.append(args[0]))
    fit(recordings, representation, finished.parent / "none")
    patch.undo()
    trainer = seen[0]
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, 10)
    trainer.compile(keras.optimizers.Adam(schedule), jit_compile=False)

    def run_of(out):
        fitting._check_out(out, config, resume=True, force=False, reuse=False)
        task = Training(trainer, representation, recordings, out, options(), Run(out, config))
        task.enter = lambda stage: trainer.optimizer.build(trainer.trainable_variables)
        if task.run.begun:
            task.load_state()
        return task.run

    return run_of


def fuzzed(opened, finished, tmp_path, count, seed):
    """Damage run folders; how many were refused. More of them: tests/nightly/test_exact_resume.py."""
    refused = 0
    for number in range(count):
        out = tmp_path / str(number)
        (out / "run").mkdir(parents=True)
        for name in ("config.json", "state.npz"):
            shutil.copy(finished / "run" / name, out / "run" / name)
        damage_run(out / "run", np.random.default_rng([seed, number]))
        try:
            run = opened(out)
            assert run.epoch == len(run.history["loss"]) == 2
        except InputError as error:
            refused += "\n" not in str(error) or pytest.fail(f"{number}: several lines: {error}")
        shutil.rmtree(out)
    return refused


def test_a_damaged_run_is_named_in_one_line(opened, finished, tmp_path):
    assert opened(finished).epoch == 2
    assert fuzzed(opened, finished, tmp_path, 60, seed=0) > 30


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 10**9}, {"epoch": -1}, {"epoch": True}, {"epoch": "2"}, {"epoch": None}, {"history": {}},
        {"history": []}, {"history": {"kl": [1.0, 1.0]}},
        {"history": {"loss": [1.0]}}, {"history": {"loss": [1.0, "x"]}}, {"step": 10**9}, {"step": -1},
        {"waited": 3}, {"best_epoch": 2.5}, {"seconds": float("nan")}, {"seconds": -1.0}, {"finished": 1},
        {"best": "0"}, {"best": [0]},
    ],
)  # fmt: skip
def test_progress_that_cannot_be_is_damaged(changes, opened, finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    with np.load(tmp_path / "run" / "state.npz") as kept:
        arrays = dict(kept)
    arrays["progress"] = np.array(json.dumps(json.loads(str(arrays["progress"])) | changes))
    np.savez(tmp_path / "run" / "state.npz", **arrays)
    with pytest.raises(InputError, match="state.npz is damaged .*--force starts over"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"model": []}, {"model": {"beta": "much"}}, {"model": {"sigma": [1]}}, {"options": 0}]
)
def test_a_configuration_of_other_types_is_named_by_diagnose(changes, finished, recordings, tmp_path):
    config = json.loads((finished / "run" / "config.json").read_text())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match="run is damaged .*restore it from a copy"):
        examine.examine_bundle(tmp_path, recordings, None, "validation")


def test_a_damaged_state_changes_no_variable(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd")
    model.optimizer.build(model.trainable_variables)
    groups = state.variables_of(model)
    state.write(tmp_path / "s.npz", {}, groups | {"optimizer": groups["optimizer"][:-1]})
    before = model.get_weights()
    model.set_weights([weight + 1.0 for weight in before])
    with pytest.raises(InputError, match="damaged"):
        state.restore(tmp_path / "s.npz", groups)
    np.testing.assert_array_equal(model.get_weights()[0], before[0] + 1.0)


# Priors


def test_a_prior_worse_than_the_normal_is_not_the_default(recordings, representation, tmp_path, monkeypatch):
    """The latents of training clips say nothing of the others: a mixture fitted to them is far off."""
    prior = importlib.import_module("spectrovae.training.prior")
    bundle = tmp_path / "vae"
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", lambda self, *args, **kwargs: None)
        patch.setattr(Training, "run_epochs", lambda self: None)
        patch.setattr(Training, "finish", lambda self: self.trainer)
        trainer = training.fit("vae", recordings, representation, bundle, options(), preset="tiny")
    Codec(representation, trainer.encoder, trainer.decoder, family="vae", prior=trainer.prior).save(bundle)
    encoded = prior._encoded

    def moved(codec, recordings, split, names):
        latents, classes = encoded(codec, recordings, split, names)
        return (latents + 50.0 if split == "train" else latents), classes

    monkeypatch.setattr(prior, "_encoded", moved)
    codec = training.fit_prior(bundle, recordings, preset="tiny", conditions=[])
    figures = codec.info["rejected_prior"]["figures"]["validation"]
    assert figures["prior"] > figures["standard_normal"]
    assert "worse than N(0, I), so it is not kept: generate draws from N(0, I)" in prior.result_text(codec)
    assert "learned_prior" not in read_description(bundle)
    assert read_description(bundle)["info"]["rejected_prior"]["kind"] == "mixture"
    codec = training.fit_prior(bundle, recordings, "mixture", preset="tiny", conditions=[])
    assert codec.learned_prior is not None
    assert "rejected_prior" not in read_description(bundle)["info"]
    assert "it was asked for, so it is kept" in prior.result_text(codec)


def test_priors_and_judges_go_on_with_the_labels_they_began_with(model, tmp_path, monkeypatch):
    """The labels of all recordings are exchanged: same files, same classes."""
    prior, judge = (importlib.import_module(f"spectrovae.training.{name}") for name in ("prior", "judge"))
    seen = []

    def stopped(*args):
        seen.append(args[-1].settings)
        raise InputError("far enough")

    monkeypatch.setattr(prior, "_fitted", stopped)
    monkeypatch.setattr(judge, "_trained", stopped)
    write_tones_and_table(tmp_path / "x")
    table = tmp_path / "x" / "labels.csv"
    for _ in range(2):
        data = Recordings.open(tmp_path / "x" / "audio", sample_rate=8000, samples=1984, labels=table)
        with pytest.raises(InputError, match="far enough"):
            training.fit_prior(model, data)
        with pytest.raises(InputError, match="far enough"):
            training.fit_judge("label", data, tmp_path / "judge")
        table.write_text(re.sub("low|high", lambda found: {"low": "high", "high": "low"}[found[0]], table.read_text()))
    for before, after in zip(seen[:2], seen[2:], strict=True):
        assert [name for name in before if before[name] != after[name]] == ["names"]


def test_no_prior_is_saved_with_a_model_that_was_replaced_meanwhile(model, recordings, monkeypatch):
    prior = importlib.import_module("spectrovae.training.prior")

    def replaced(*args, **kwargs):
        Codec.load(model).replace(info={"epoch": 9}).save(model)

    monkeypatch.setattr(prior, "data_of", replaced)
    with pytest.raises(InputError, match="was replaced meanwhile; run the same command again"):
        training.fit_prior(model, recordings)
    assert read_description(model)["info"] == {"epoch": 9}


# Progress


def test_steps_of_a_long_epoch_are_shown_on_a_terminal(monkeypatch, capsys):
    clock = iter(np.arange(0.0, 100.0, 0.4))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(callbacks, "LONG", 1.0)
    show = callbacks.ShowSteps(3, 10)
    show.terminal = True
    show.set_params({"steps": 8})  # an epoch that is continued after two steps
    show.on_epoch_begin(1)
    for step in range(8):
        show.on_train_batch_end(step, {"loss": 0.25})
    shown = capsys.readouterr().err
    assert "\n" not in shown
    assert "step 3/10" not in shown
    assert shown.endswith("\repoch 2/3  step 9/10  loss 0.25") or shown.endswith("\repoch 2/3  step 10/10  loss 0.25")
    callbacks.log("epoch 2/3 is over")
    assert capsys.readouterr().err.split("\r")[-1] == "epoch 2/3 is over\n"
    callbacks.log("next")
    assert capsys.readouterr().err == "next\n"


def test_a_finished_run_keeps_no_file_open(finished):
    links = [os.readlink(entry.path) for entry in list(os.scandir("/proc/self/fd")) if os.path.exists(entry.path)]
    assert not [link for link in links if str(finished) in link]


def test_a_run_of_samples_that_kept_a_slope_in_db_continues(trained, tmp_path):
    """As earlier versions wrote it; a run of levels with another one is another run."""
    for family, refused in (("waveform-vae", False), ("vae", True)):
        out = shutil.copytree(trained(family), tmp_path / family)
        file = out / "run" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"model": config["model"] | {"db_per_unit": 8.69}}))
        expected = pytest.raises(InputError, match="model.db_per_unit 8.69") if refused else contextlib.nullcontext()
        with expected:
            fitting._check_out(out, config, resume=True, force=False, reuse=False)
