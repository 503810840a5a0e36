"""Denoising fits: which pairs a model sees, exact resume, and that noise is undone."""

import json

import numpy as np
import pytest

from spectrovae import training
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation.perturbations import perturb, perturb_waveforms
from spectrovae.representations import LogSTFT
from spectrovae.training.corrupt import Corruption, canonical

TOY = "toy:harmonic?size=60"


def fit(recordings, representation, out, corrupt="uniform:10", family="unet", epochs=4, **options):
    settings = training.FitOptions(epochs=epochs, batch_size=16, precision="float32", corrupt=corrupt)
    return training.fit(family, recordings, representation, out, settings, preset="tiny", **options)


def stacked(dataset, batches=None):
    return [np.concatenate([np.asarray(x) for x in part]) for part in zip(*(dataset.take(batches or -1)))]


@pytest.mark.parametrize("cache_bytes", [2 << 30, 0])
@pytest.mark.parametrize("order", [{}, {"shuffle": True, "seed": 3}, {"shuffle": True, "first_epoch": 5}])
def test_numbered_waveforms_are_those_of_their_numbers(order, cache_bytes):
    recordings = Recordings.open(TOY, sample_rate=8000, samples=1984, cache_bytes=cache_bytes)
    steps = recordings.steps("train", 16)
    in_order = np.concatenate(list(recordings.waveforms("train")))
    waveforms, rows = stacked(
        recordings.waveforms("train", 16, numbered=True, **order).map(lambda *parts: parts[:2]), 2 * steps
    )
    # Toy sounds are a matrix product, whose rounding depends on how many are made at once, on some processors.
    np.testing.assert_allclose(waveforms, in_order[rows], rtol=0, atol=1e-6)
    plain = recordings.waveforms("train", 16, **order).take(2 * steps)
    np.testing.assert_array_equal(np.concatenate(list(plain)), waveforms)
    epochs = [int(epoch) for _, _, epoch in recordings.waveforms("train", 16, numbered=True, **order).take(2 * steps)]
    assert epochs == ([5] * steps + [6] * steps if "first_epoch" in order else [-1] * steps)


@pytest.mark.parametrize("normalisation", ["range", "per_example"])
@pytest.mark.parametrize("name", ["uniform:10", "white-noise:20"])
def test_pairs_are_perturbed_and_clean_whatever_the_order(name, normalisation, recordings):
    representation = LogSTFT(8000, n_fft=128, hop_length=64, normalisation=normalisation)
    corruption = Corruption(name, representation, seed=7)
    waveforms = np.concatenate(list(recordings.waveforms("train")))
    clean = np.asarray(representation.decibels(waveforms))
    keys = [(3 + 1, row, 1) for row in range(len(waveforms))]
    if name.startswith("uniform"):
        noisy = perturb(clean, 10.0, keys, seed=7)
    else:
        noisy = representation.decibels(
            perturb_waveforms(waveforms, 20.0, keys, name="white-noise", sample_rate=8000, seed=7)
        )
    statistics = representation.statistics(noisy)
    steps = recordings.steps("train", 16)
    x, y = stacked(corruption.pairs(recordings, "train", 16, first_epoch=3), steps)
    np.testing.assert_allclose(x, representation.from_db(noisy, statistics), atol=1e-4)
    np.testing.assert_allclose(y, representation.from_db(clean, statistics), atol=1e-4)
    # shuffled, the same pairs in another order; in another epoch others
    shuffled, _ = stacked(corruption.pairs(recordings, "train", 16, shuffle=True, seed=1, first_epoch=3), steps)
    totals = [np.sort(np.abs(values - 0.5).sum(axis=(1, 2, 3))) for values in (x, shuffled)]
    np.testing.assert_allclose(*totals, rtol=1e-5)
    other, target = stacked(corruption.pairs(recordings, "train", 16, first_epoch=4), steps)
    assert np.abs(other - x).max() > 0.01
    if normalisation == "range":
        np.testing.assert_allclose(target, y, atol=1e-5)


def test_what_a_denoising_fit_keeps_and_refuses(recordings, representation, tmp_path):
    out = tmp_path / "run"
    codec = fit(recordings, representation, out, corrupt="uniform:10.0", epochs=1)
    config = json.loads((out / "run" / "config.json").read_text())
    assert config["options"]["corrupt"] == codec.info["corrupt"] == "uniform:10"
    assert "uniform:10" in (out / "run" / "verdict.md").read_text()
    assert {"validation_rmse_db", "validation_clean_rmse_db"} <= set(codec.info["metrics"])
    assert Codec.load(out, verify=True).info["corrupt"] == "uniform:10"
    with pytest.raises(InputError, match="other settings.*corrupt"):
        fit(recordings, representation, out, corrupt=None)
    again = training.repeat(out / "run" / "config.json", tmp_path / "again")
    for expected, found in zip(codec.decoder.get_weights(), again.decoder.get_weights()):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    clean = fit(recordings, representation, tmp_path / "clean", corrupt=None, epochs=1)
    assert "corrupt" not in clean.info
    assert "corrupt" not in json.loads((tmp_path / "clean" / "run" / "config.json").read_text())["options"]


def test_what_is_meant_by_a_text():
    assert canonical("gain") == "gain:6"
    for nothing in (None, "none", "gain:0", "white-noise:inf"):
        assert canonical(nothing) is None
    for wrong, message in (("gremlins", "unknown"), ("gain:1,2", "one severity")):
        with pytest.raises(InputError, match=message):
            training.FitOptions(corrupt=wrong)


def test_refused_before_training(recordings, representation, tmp_path):
    with pytest.raises(InputError, match="8 to 64"):
        fit(recordings, representation, tmp_path / "out", corrupt="mp3:128")
    with pytest.raises(InputError, match="time-stretch"):
        fit(recordings, representation, tmp_path / "out", family="vae", time_stretch=0.1)
    assert not (tmp_path / "out").exists()
