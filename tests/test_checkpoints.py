"""Runs that are stopped within an epoch: the continuation is the uninterrupted run, step by step."""

import json
import signal

import numpy as np
import pytest
from interrupts import history, killed, signalled, stopping

from spectrovae import training
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.representations import LogSTFT, Subbands
from spectrovae.training.options import minutes
from spectrovae.training.run import Run


@pytest.fixture(scope="module")
def sounds():
    return {
        "rave": Recordings.open("toy:harmonic?size=40", sample_rate=8000, samples=2048),
        "vae": Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=1984),
    }


def fit(sounds, family, out, **changes):
    rave = family == "rave"
    representation = Subbands(8000) if rave else LogSTFT(8000, n_fft=128, hop_length=64, phase_iterations=2)
    options = {"epochs": 2, "batch_size": 8, "precision": "float32"} | ({"adversarial_from": 1} if rave else {})
    return training.fit(
        family, sounds["rave" if rave else "vae"], representation, out, training.FitOptions(**(options | changes)),
        preset="tiny",
    )  # fmt: skip


@pytest.fixture(scope="module")
def full(sounds, tmp_path_factory):
    """Uninterrupted runs, by family, fitted once each."""
    fitted = {}

    def of(family):
        if family not in fitted:
            out = tmp_path_factory.mktemp("full") / family
            fitted[family] = out, fit(sounds, family, out)
        return fitted[family]

    return of


def same(run, expected):
    """Equal in history and weights."""
    assert history(run[0]) == history(expected[0])
    for part in ("encoder", "decoder"):
        for a, b in zip(getattr(run[1], part).get_weights(), getattr(expected[1], part).get_weights()):
            np.testing.assert_array_equal(a, b)


def check_interrupted(family, epoch, sounds, full, tmp_path, monkeypatch, capsys):
    """Interrupted within an epoch, a run is saved there and continues exactly."""
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        stopping(patch, epoch, 1, signalled(signal.SIGTERM if epoch else signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(sounds, family, out)
    progress = Run(out, {}).progress()
    assert (progress["epoch"], progress["step"]) == (epoch, 3)  # the signal comes after step 2, and ends step 3
    said = capsys.readouterr().err
    assert f"stopped after step 3 of epoch {epoch + 1}: a usable model" in said
    assert "the same command without --force continues" in said
    Codec.load(out, verify=True)
    codec = fit(sounds, family, out)
    same((out, codec), full(family))


@pytest.mark.parametrize("epoch", [0, 1])
def test_interrupted_within_an_epoch_it_continues_exactly_there(epoch, sounds, full, tmp_path, monkeypatch, capsys):
    """Other families: tests/nightly/test_exact_resume.py."""
    check_interrupted("vae", epoch, sounds, full, tmp_path, monkeypatch, capsys)


def test_a_killed_epoch_continues_after_its_last_state(sounds, full, tmp_path, monkeypatch):
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        stopping(patch, 1, 2, killed)
        with pytest.raises(SystemExit):
            fit(sounds, "vae", out, checkpoint_every=1e-9)
    assert Run(out, {}).progress()["step"] == 3
    codec = fit(sounds, "vae", out, checkpoint_every="0")
    same((out, codec), full("vae"))


def test_without_checkpoints_a_killed_epoch_is_done_again(sounds, full, tmp_path, monkeypatch):
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        stopping(patch, 1, 2, killed)
        with pytest.raises(SystemExit):
            fit(sounds, "vae", out, checkpoint_every=0)
    assert Run(out, {}).progress()["step"] == 0
    same((out, fit(sounds, "vae", out)), full("vae"))


def test_interrupted_in_validation_the_epoch_is_completed(sounds, full, tmp_path, monkeypatch):
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        stopping(patch, 0, 5, signalled())  # the last step: what follows is the validation
        with pytest.raises(KeyboardInterrupt):
            fit(sounds, "vae", out)
    progress = Run(out, {}).progress()
    assert (progress["epoch"], progress["step"]) == (1, 0)
    same((out, fit(sounds, "vae", out)), full("vae"))


@pytest.mark.parametrize(
    ("text", "expected"), [("10m", 10.0), ("30s", 0.5), ("2h", 120.0), ("0", 0.0), (5, 5.0), (".5 m", 0.5)]
)
def test_minutes(text, expected):
    assert minutes(text) == expected


def test_numbers_of_numpy_are_kept_as_json():
    options = training.FitOptions(epochs=np.int64(2), learning_rate=np.float32(0.5))
    assert json.loads(json.dumps(options.kept()))["learning_rate"] == 0.5


@pytest.mark.parametrize("text", ["-1", "m", "ten", "1d", "nan", True, None, "", "1e3", "١m", "9" * 400])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match="checkpoint_every"):
        training.FitOptions(checkpoint_every=text)
