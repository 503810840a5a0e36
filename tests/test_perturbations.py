"""Perturbations against closed forms and naive versions; each clip's is its own."""

import math

import librosa
import numpy as np
import pytest
import scipy.signal

from spectrovae.errors import InputError
from spectrovae.evaluation.perturbations import (
    PERTURBATIONS,
    parse,
    perturb,
    perturb_waveforms,
    perturbed_decibels,
)
from spectrovae.representations import LogSTFT, MagnitudePhase

RATE = 8000


@pytest.fixture(scope="module")
def representation():
    return LogSTFT(RATE, n_fft=128, hop_length=32)


@pytest.fixture(scope="module")
def waveforms():
    random = np.random.default_rng(3)
    time = np.arange(8000) / RATE
    tones = [np.sin(2 * np.pi * f * time) for f in (200, 441, 1500, 3100)]
    sound = [0.2 * tone + 0.02 * random.standard_normal(8000) for tone in tones]
    return np.stack(sound).astype(np.float32)


@pytest.fixture(scope="module")
def db(representation, waveforms):
    return np.asarray(representation.decibels(waveforms))


def noise(name, db, level, representation=None, seed=0):
    """float64 (clips, bins, frames) of what was added."""
    noisy = perturb(db, level, range(len(db)), name=name, seed=seed, representation=representation)
    return np.subtract(noisy, db, dtype=np.float64)[..., 0]


def decibels(x):
    return 20 * np.log10(x)


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_a_clip_alone_or_in_any_order_is_disturbed_alike(name, representation, waveforms):
    level = PERTURBATIONS[name].default
    keys = [4, 9, (2, 7), 5]
    together = perturbed_decibels(representation, waveforms, level, keys, name=name, seed=1)
    backwards = perturbed_decibels(representation, waveforms[::-1], level, keys[::-1], name=name, seed=1)
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-4)
    alone = perturbed_decibels(representation, waveforms[2:3], level, keys[2:3], name=name, seed=1)
    np.testing.assert_allclose(alone, together[2:3], atol=1e-4)
    other = perturbed_decibels(representation, waveforms, level, keys, name=name, seed=2)
    assert (np.abs(other - together).max() > 1e-3) == PERTURBATIONS[name].random
    assert np.abs(together - np.asarray(representation.decibels(waveforms))).max() > 0.1


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_the_severity_that_is_none_changes_nothing(name, representation, waveforms, db):
    none = PERTURBATIONS[name].none
    found = perturbed_decibels(representation, waveforms, none, range(4), name=name, clean=db)
    np.testing.assert_array_equal(found, db)


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_more_is_more(name, representation, waveforms, db):
    chosen = PERTURBATIONS[name]
    levels = [level for level in chosen.severities if level != chosen.none]
    distances = [
        np.sqrt(np.mean(np.square(perturbed_decibels(representation, waveforms, level, range(4), name=name) - db)))
        for level in sorted(levels, reverse=math.isinf(chosen.none))
    ]
    assert distances == sorted(distances)


@pytest.mark.parametrize("name", ["uniform", "gaussian", "signs", "gain", "tilt"])
def test_expected_distance(name, representation, db):
    many = np.repeat(db, 8, axis=0)
    added = noise(name, many, 4.0, representation)
    expected = PERTURBATIONS[name].distance(4.0, representation.frequencies)
    assert np.sqrt(np.mean(added**2)) == pytest.approx(expected, rel=0.01)


def test_uniform_and_gaussian_have_the_same_strength_and_their_own_shape(db):
    flat, bell = (noise(name, db, 10.0).ravel() for name in ("uniform", "gaussian"))
    assert np.abs(flat).max() <= 10.0 + 1e-4
    for values, kurtosis in ((flat, 1.8), (bell, 3.0)):
        assert np.mean(values) == pytest.approx(0.0, abs=0.1)
        assert np.std(values) == pytest.approx(10.0 / np.sqrt(3), rel=0.02)
        assert np.mean(values**4) / np.mean(values**2) ** 2 == pytest.approx(kurtosis, rel=0.03)


def test_signs_are_corners(db):
    added = noise("signs", db, 3.0)
    np.testing.assert_allclose(np.abs(added), 3.0, atol=1e-4)
    assert abs(np.mean(added > 0) - 0.5) < 0.02


def test_gain_moves_a_whole_clip(db):
    added = noise("gain", np.repeat(db, 4, axis=0), 6.0)
    np.testing.assert_allclose(np.abs(added), 6.0, atol=1e-4)
    np.testing.assert_allclose(added, added[:, :1, :1] * np.ones_like(added), atol=1e-4)
    assert {round(x) for x in added[:, 0, 0]} == {-6, 6}


def test_a_tilt_is_so_many_db_an_octave(representation, db):
    added = noise("tilt", db, 2.0, representation)
    frequencies = list(representation.frequencies)
    for clip in added:
        at = {f: clip[frequencies.index(f), 0] for f in (250.0, 500.0, 1000.0, 2000.0)}
        sign = np.sign(at[2000.0])
        assert [sign * at[f] for f in at] == pytest.approx([-4.0, -2.0, 0.0, 2.0], abs=1e-4)
        assert np.ptp(clip, axis=1).max() < 1e-4
        assert np.isfinite(clip).all()


@pytest.mark.parametrize(("name", "axis"), [("band-mask", 0), ("time-mask", 1)])
def test_masks_are_silence_of_the_given_width(name, axis, representation, db):
    loud = db + 5.0
    masked = perturb(loud, 25.0, range(4), name=name, representation=representation)[..., 0]
    floored = masked == representation.min_db
    lines = floored.all(axis=2 - axis)  # (clips, bins) or (clips, frames)
    assert (lines.sum(axis=1) == round(0.25 * loud.shape[1 + axis])).all()
    assert floored.sum() == lines.sum() * loud.shape[2 - axis]
    for line in lines:
        assert np.ptp(np.flatnonzero(line)) == line.sum() - 1
    np.testing.assert_array_equal(masked[~floored], loud[..., 0][~floored])


@pytest.mark.parametrize(("name", "slope"), [("white-noise", 0.0), ("pink-noise", -3.01)])
def test_noise_has_its_snr_and_colour(name, slope):
    sound = np.zeros((1, 32000), np.float32)
    sound[0, :8000] = 0.1 * np.sin(np.arange(1, 8001))
    noisy = perturb_waveforms(sound, 15.0, [0], name=name, sample_rate=RATE)
    added = (noisy - sound)[0]
    level = np.sqrt(np.mean(sound[0, :8000] ** 2))
    assert decibels(level / np.sqrt(np.mean(added**2))) == pytest.approx(15.0, abs=0.01)
    frequencies, power = scipy.signal.welch(added, RATE, nperseg=1024)
    bands = [10 * np.log10(power[(frequencies >= f) & (frequencies < 2 * f)].mean()) for f in (200, 400, 800, 1600)]
    assert np.polyfit(range(4), bands, 1)[0] == pytest.approx(slope, abs=0.5)


def test_silence_stays_silent_under_noise():
    silence = np.zeros((1, 100), np.float32)
    np.testing.assert_array_equal(perturb_waveforms(silence, 0.0, [0], name="white-noise", sample_rate=RATE), silence)


def test_resampling_is_a_low_pass_without_delay(waveforms):
    found = perturb_waveforms(waveforms, 2.0, range(4), name="resampling", sample_rate=RATE)
    for sound, kept in zip(waveforms, found):
        reference = scipy.signal.sosfiltfilt(scipy.signal.butter(20, 1900, fs=RATE, output="sos"), sound)
        middle = slice(500, -500)
        error = np.sqrt(np.mean((kept - reference)[middle] ** 2))
        assert error < 0.2 * np.sqrt(np.mean(sound**2))
        spectrum = np.abs(librosa.stft(kept[middle].copy(), n_fft=512, center=False)).mean(axis=1)
        assert spectrum[136:].max() < 1e-3 * spectrum.max()  # from 2 125 Hz on


@pytest.mark.parametrize(
    ("name", "levels", "rate"),
    [("mp3", (64, 24, 16), 8000), ("mp3", (160, 64, 32), 16000), ("mp3", (320, 128, 64, 48), 44100)]
    + [("vorbis", (10, 5, 0), rate) for rate in (8000, 16000, 44100)],
)
def test_coding_keeps_place_and_length_and_loses_with_the_rate(name, levels, rate):
    random = np.random.default_rng(0)
    sound = scipy.signal.lfilter([1], [1, -0.9], 0.02 * random.standard_normal((2, rate + 17))).astype(np.float32)
    errors = []
    for level in levels:
        coded = perturb_waveforms(sound, level, [0, 1], name=name, sample_rate=rate)
        assert coded.shape == sound.shape
        for before, after in zip(sound, coded):
            lag = np.argmax(scipy.signal.correlate(after, before, "same")) - len(before) // 2
            assert lag == 0
        errors.append(np.sqrt(np.mean((coded - sound) ** 2)))
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1] < 0.6 * np.std(sound)


@pytest.mark.parametrize(
    ("name", "level", "rate", "message"),
    [
        ("mp3", 128.0, 8000, "8 to 64"),
        ("mp3", 16.0, 44100, "32 to 320"),
        ("mp3", 32.0, 6000, "cannot code"),
        ("vorbis", 11.0, 8000, "from 0 to 10"),
        ("resampling", 0.5, 8000, "1 or more"),
        ("white-noise", float("nan"), 8000, "any"),
    ],
)
def test_severities_out_of_range(name, level, rate, message):
    with pytest.raises(InputError, match=message):
        perturb_waveforms(np.ones((1, 100), np.float32), level, [0], name=name, sample_rate=rate)


def test_what_is_carried_beside_the_level_stays(waveforms):
    representation = MagnitudePhase(RATE, n_fft=128, hop_length=64)
    db = np.asarray(representation.decibels(waveforms))
    noisy = perturb(db, 10.0, range(4), representation=representation)
    np.testing.assert_array_equal(noisy[..., 1:], db[..., 1:])
    assert np.abs(noisy[..., 0] - db[..., 0]).max() > 9.0


def test_parsing():
    assert parse("gain") == ("gain", ())
    assert parse("white-noise:30,-5,inf") == ("white-noise", (30.0, -5.0, math.inf))
    for text, message in (
        ("gremlins", "unknown"), ("gain:loud", "SEVERITY"), ("gain:-1", "0 or more"), ("gain:inf", "0 or more"),
        ("band-mask:101", "0 to 100"), ("gain:", "SEVERITY"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            parse(text)
