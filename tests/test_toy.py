"""The harmonic set: its spectra are what the formula says, its factor is known."""

import numpy as np
import pytest

from spectrovae.data import toy
from spectrovae.data.toy import Harmonic
from spectrovae.errors import InputError


def partial_amplitudes(waveform, rate, count):
    """Least squares on sines and cosines: an oracle that needs no whole number of periods."""
    time = np.arange(waveform.size) / rate
    angles = 2 * np.pi * 220.0 * np.outer(time, np.arange(1, count + 1))
    basis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, waveform.astype(np.float64), rcond=None)
    return np.hypot(weights[:count], weights[count:])


@pytest.mark.parametrize("rate", [8000, 16000])
def test_partials_have_slope_one_over_n_and_fade_in_one_by_one(rate):
    made = Harmonic(sample_rate=rate, samples=4096, size=100)
    count = made.partials
    assert 220 * count < rate / 2 <= 220 * (count + 1)
    gain = 0.9 / sum(1 / n for n in range(1, count + 1))
    for index in (0, 37, 99):
        (richness,) = made.factors([index])[0]
        whole = int(richness)
        expected = [
            gain / n * (1 if n <= whole else richness - whole if n == whole + 1 else 0) for n in range(1, count + 1)
        ]
        amplitudes = partial_amplitudes(made.waveforms([index])[0], rate, count)
        np.testing.assert_allclose(amplitudes, expected, atol=1e-5)


def test_ten_thousand_different_spectra():
    made = Harmonic()
    factors = made.factors(np.arange(len(made)))
    assert factors.shape == (10_000, 1)
    assert len(np.unique(factors)) == 10_000
    assert (factors[0, 0], factors[-1, 0]) == (1.0, 18.0)
    assert made.waveforms(np.arange(2)).shape == (2, 8064)


def test_no_sound_comes_near_clipping():
    sounds = Harmonic(size=500, samples=2000).waveforms(np.arange(500))
    assert sounds.dtype == np.float32
    assert 0.2 < np.abs(sounds).max() <= 0.9
    # Random phases keep the power: it grows with richness alone.
    power = Harmonic(size=5, samples=8000).waveforms(np.arange(5)).var(axis=1)
    assert (np.diff(power) > 0).all()


def test_a_sound_depends_on_seed_and_number_alone():
    made = Harmonic(size=50, samples=300)
    together = made.waveforms(np.arange(50))
    np.testing.assert_allclose(made.waveforms([31, 7]), together[[31, 7]], atol=1e-6)
    np.testing.assert_array_equal(Harmonic(size=50, samples=300).waveforms([7]), made.waveforms([7]))
    assert np.abs(Harmonic(size=50, samples=300, seed=1).waveforms([7]) - made.waveforms([7])).max() > 0.01


def test_splits_share_the_sounds_out():
    splits = Harmonic(size=10_000, samples=1).splits()
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(10_000))
    assert [round(len(splits[name]) / 1000) for name in ("train", "validation", "test")] == [8, 1, 1]


def test_sets_are_opened_by_name():
    made = toy.open_toy("toy:harmonic?size=500&seed=3&sample_rate=16000")
    assert (made.size, made.seed, made.sample_rate, made.samples) == (500, 3, 16000, 16128)
    assert toy.open_toy("toy:harmonic", duration=0.5).samples == 4000
    assert toy.open_toy("toy:harmonic?samples=99", samples=100).samples == 100
    assert made.fingerprint != toy.open_toy("toy:harmonic?size=500&seed=4&sample_rate=16000").fingerprint
    assert made.fingerprint == toy.open_toy("toy:harmonic?seed=3&sample_rate=16000&size=500").fingerprint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("toy:organ", "choose from toy:harmonic"),
        ("toy:harmonic?loudness=3", "received loudness=3"),
        ("toy:harmonic?size=many", "received size=many"),
        ("toy:harmonic?size=-5", "received size=-5"),
        ("toy:harmonic?size=1", "size >= 2"),
        ("toy:harmonic?sample_rate=400", "rate above 440 Hz"),
        ("toy:harmonic?samples=0", "at least one sample"),
    ],
)
def test_impossible_sets_are_refused(name, reason):
    with pytest.raises(InputError, match=reason):
        toy.open_toy(name)
