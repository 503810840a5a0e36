"""Exact resume of what tests/ leaves out: other families, other epochs, corrupted inputs, and SIGKILL."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import test_checkpoints
import test_rave
import test_run_folder
import test_speakers
import test_training
from interrupts import history, interrupted
from test_corrupt import fit
from test_export_killed import check_kills
from tones import SAMPLES

from spectrovae.codec import Codec
from spectrovae.data import Recordings

TOY = test_training.TOY
finished, opened = test_run_folder.finished, test_run_folder.opened
full, sounds = test_checkpoints.full, test_checkpoints.sounds


@pytest.mark.parametrize("family", ["vq-vae", "rave"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_within_an_epoch(family, epoch, sounds, full, tmp_path, monkeypatch, capsys):
    test_checkpoints.check_interrupted(family, epoch, sounds, full, tmp_path, monkeypatch, capsys)


def test_five_hundred_damaged_runs(opened, finished, tmp_path):
    test_run_folder.fuzzed(opened, finished, tmp_path, 500, seed=1)


@pytest.mark.parametrize("family", ["autoencoder", "unet"])
def test_an_interrupted_run_continues_exactly(family, recordings, representation, tmp_path, monkeypatch):
    test_training.check_resume(family, recordings, representation, tmp_path, monkeypatch)


def test_with_speakers(representation, tones, tmp_path, monkeypatch):
    recordings = Recordings.open(tones, samples=SAMPLES)
    test_speakers.check_resume("vae", recordings, representation, tmp_path, monkeypatch)


@pytest.mark.parametrize("epoch", [1, 3])
def test_of_two_stages(epoch, tmp_path, monkeypatch):
    recordings = Recordings.open("toy:harmonic?size=40", sample_rate=8000, samples=2048)
    whole = test_rave.fit(recordings, tmp_path / "whole", augment="gain,mute"), tmp_path / "whole"
    test_rave.check_resume(epoch, whole, recordings, tmp_path, monkeypatch)


def test_exports_killed_at_fifty_random_moments(tmp_path):
    check_kills(50, tmp_path)


@pytest.mark.parametrize("family", ["vae", "unet"])
def test_an_interrupted_denoising_fit_continues_exactly(family, recordings, representation, tmp_path, monkeypatch):
    whole = fit(recordings, representation, tmp_path / "whole", family=family)
    with monkeypatch.context() as patch:
        interrupted(patch, epoch=2)
        with pytest.raises(KeyboardInterrupt):
            fit(recordings, representation, tmp_path / "parts", family=family)
    parts = fit(recordings, representation, tmp_path / "parts", family=family)
    for before, after in zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True):
        for name in before:
            assert float(after[name]) == pytest.approx(float(before[name]), rel=1e-3)
    assert {"val_loss", "val_clean_loss", "val_clean_rmse_db"} <= set(before)
    for expected, found in zip(whole.decoder.get_weights(), parts.decoder.get_weights()):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_killed_at_any_moment_it_leaves_nothing_unreadable_and_continues(tmp_path):
    """SIGKILL again and again, a little later each time, until the run gets through."""
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "spectrovae", "fit", "vae", "--data", TOY, "--preset", "tiny", "--epochs", "6",
        "--batch-size", "8", "--precision", "float32", "--out", str(out),
    ]  # fmt: skip
    for kills in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        # Starting takes most of the first seconds; each attempt lives a little longer than the one before.
        deadline = time.monotonic() + 6.0 + 1.7 * kills
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        errors = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL or "is finished" in errors or process.returncode == 0, errors
        for left in out.rglob("*.json"):
            json.loads(left.read_text())
        if (out / "codec.json").exists() or (out / ".saved").exists():
            Codec.load(out, verify=True)
        if process.returncode != -signal.SIGKILL:
            break
    assert kills >= 2
    assert Codec.load(out, verify=True).info["finished"] is True
    assert len(history(out)) == 6
    assert not list(out.rglob(".*"))
