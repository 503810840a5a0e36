"""Augmentation against SciPy and closed forms, and that it is a function of (seed, epoch, example)."""

import numpy as np
import pytest
import scipy.signal

from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.training import augment
from spectrovae.training.augment import Augmentation

RATE = 8000


def noise(*shape, seed=0, rms=0.1):
    return (rms * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def decibels(signal):
    return 10.0 * np.log10(np.mean(np.square(np.float64(signal)), axis=-1))


def test_gain_is_uniform_in_decibels_and_nothing_else():
    waveforms = np.tile(noise(1, 100, rms=0.02), (400, 1))
    found = Augmentation({"gain": 6.0}, RATE)(waveforms, range(400), 0)
    change = decibels(found) - decibels(waveforms)
    np.testing.assert_allclose(found, waveforms * 10.0 ** (change[:, None] / 20.0), atol=1e-6)
    quantiles = np.quantile(change, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(quantiles, [-6.0, -3.0, 0.0, 3.0, 6.0], atol=1.0)
    assert np.abs(change).max() <= 6.0


def test_no_sound_is_driven_past_full_scale():
    waveforms = noise(50, 400, rms=0.3).clip(-1, 1)
    found = Augmentation({"gain": 20.0}, RATE)(waveforms, range(50), 0)
    assert np.abs(found).max() == pytest.approx(1.0)
    ratio = found / waveforms  # a factor of each example: no clipping
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], 400, axis=1), rtol=1e-4)


def test_an_allpass_filter_passes_all():
    frequencies, response = scipy.signal.freqz_sos(augment.allpass([50.0, 700.0, 1900.0], RATE), 4096, fs=RATE)
    np.testing.assert_allclose(np.abs(response), 1.0, atol=1e-9)
    turned = np.unwrap(np.angle(response))
    # Each pair of poles within the unit circle turns the phase once from 0 Hz to the Nyquist frequency.
    assert turned[-1] - turned[0] == pytest.approx(-3 * 2.0 * np.pi, rel=0.01)


def test_phase_leaves_the_magnitude_spectrum():
    waveforms = np.zeros((4, 8000), np.float32)
    waveforms[:, 1000:3000] = noise(4, 2000)
    found = Augmentation({"phase": 3}, RATE)(waveforms, range(4), 0)
    before, after = (np.abs(scipy.fft.rfft(np.float64(x))) for x in (waveforms, found))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert np.abs(found - waveforms).max() > 0.05


def test_a_random_part_is_muted():
    waveforms = np.full((300, 2000), 0.5, np.float32)
    found = Augmentation({"mute": 0.5}, RATE)(waveforms, range(300), 0)
    starts, shares = [], []
    for row in found:
        silent = np.flatnonzero(row == 0.0)
        if len(silent):
            assert len(silent) == silent[-1] - silent[0] + 1
            starts.append(silent[0])
        shares.append(len(silent) / 2000)
        ramp = int(augment.FADE * RATE)
        outside = np.ones(2000, bool)
        if len(silent):
            outside[max(silent[0] - ramp, 0) : silent[-1] + ramp + 1] = False
        np.testing.assert_array_equal(row[outside], 0.5)
    assert np.max(shares) <= 0.5
    assert np.mean(shares) == pytest.approx(0.25, abs=0.03)
    assert min(starts) < 100
    assert max(starts) > 1500
    assert np.abs(np.diff(found, axis=1)).max() < 0.5 / (augment.FADE * RATE) + 1e-6


@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0])
def test_compression_divides_differences_of_level(ratio):
    """Of two steady tones, both above the threshold, 20 dB apart: 20 / ratio dB."""
    times = np.arange(2 * RATE) / RATE
    tones = np.sin(2 * np.pi * 400.0 * times) * np.where(times < 1.0, 0.05, 0.5)
    found = augment.compress(tones, ratio, RATE)
    steady = decibels(found[12000:]) - decibels(found[4000:8000])
    assert steady == pytest.approx(20.0 / ratio, abs=0.1)
    assert decibels(found) == pytest.approx(decibels(tones), abs=1e-6)


def test_compression_leaves_what_is_below_the_threshold():
    quiet = noise(2000, rms=10.0 ** ((augment.THRESHOLD - 10.0) / 20.0))
    np.testing.assert_allclose(augment.compress(quiet, 8.0, RATE), quiet, rtol=1e-6)
    # 20 dB above it, a ratio of 4 leaves 5; beside a part below, whose level is lifted relative to it by the 15.
    times = np.arange(2 * RATE) / RATE
    amplitudes = 2.0**0.5 * 10.0 ** (np.where(times < 1.0, -50.0, -20.0) / 20.0)
    found = augment.compress(np.sin(2 * np.pi * 400.0 * times) * amplitudes, 4.0, RATE)
    assert decibels(found[12000:]) - decibels(found[4000:8000]) == pytest.approx(15.0, abs=0.1)


def test_compression_ratios_are_drawn_up_to_the_strength():
    times = np.arange(RATE) / RATE
    tones = np.sin(2 * np.pi * 400.0 * times) * np.where(times < 0.5, 0.05, 0.5)
    found = Augmentation({"compression": 4.0}, RATE)(np.tile(tones, (40, 1)), range(40), 0)
    ratios = 20.0 / (decibels(found[:, 6000:]) - decibels(found[:, 2000:4000]))
    assert ratios.min() >= 0.99
    assert ratios.max() <= 4.1
    assert np.median(ratios) == pytest.approx(2.0, rel=0.25)


EVERYTHING = {"compression": 4.0, "phase": 2.0, "mute": 0.3, "gain": 6.0}


@pytest.mark.parametrize("strengths", [EVERYTHING, *({name: value} for name, value in EVERYTHING.items())])
def test_a_function_of_seed_epoch_and_example(strengths):
    waveforms = noise(6, 800)
    augmentation = Augmentation(strengths, RATE, seed=3)
    found = augmentation(waveforms, range(6), 2)
    assert found.dtype == np.float32
    order = [4, 1]
    np.testing.assert_array_equal(augmentation(waveforms[order], order, 2), found[order])
    for other in (augmentation(waveforms, range(6), 3), Augmentation(strengths, RATE, seed=4)(waveforms, range(6), 2)):
        assert np.all(np.abs(other - found).max(axis=1) > 1e-5)
    same = augmentation(np.tile(waveforms[:1], (2, 1)), [0, 1], 2)
    assert np.abs(same[0] - same[1]).max() > 1e-5


def test_one_kind_more_does_not_change_what_the_others_draw():
    waveforms = noise(3, 800, rms=0.01)
    phase = Augmentation({"phase": 2}, RATE)(waveforms, range(3), 0)
    both = Augmentation({"phase": 2, "gain": 6.0}, RATE)(waveforms, range(3), 0)
    ratio = both / phase
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], 800, axis=1), rtol=1e-3)


def test_nothing_is_done_where_nothing_is_asked_and_silence_stays():
    waveforms = noise(2, 100, rms=1.0)  # past full scale, and left there
    np.testing.assert_array_equal(Augmentation({}, RATE)(waveforms, range(2), 0), waveforms)
    silence = Augmentation(EVERYTHING, RATE)(np.zeros((2, 100), np.float32), range(2), 0)
    np.testing.assert_array_equal(silence, 0.0)
    assert Augmentation(EVERYTHING, RATE)(np.zeros((0, 100), np.float32), [], 0).shape == (0, 100)


@pytest.mark.parametrize("order", [{}, {"shuffle": True, "seed": 5, "first_epoch": 2}])
def test_batches_are_those_of_the_recordings_augmented(order, representation):
    recordings = Recordings.open("toy:harmonic?size=60", sample_rate=RATE, samples=1984)
    augmentation = Augmentation(EVERYTHING, RATE, seed=1)
    steps = recordings.steps("train", 16)
    numbered = recordings.waveforms("train", 16, numbered=True, **order).take(steps + 1)
    expected = [augmentation(*(np.asarray(part) for part in batch)) for batch in numbered]
    found = list(augmentation.waveforms(recordings, "train", 16, **order).take(steps + 1))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)
    features = next(iter(augmentation.features(recordings, "train", representation, 16, **order)))
    np.testing.assert_allclose(features, representation(expected[0]), atol=1e-5)


def test_what_is_meant_by_a_text():
    assert augment.parse("gain, phase:3") == {"phase": 3.0, "gain": 6.0}
    assert augment.canonical("gain:6.0,compression") == "compression:4,gain:6"
    for nothing in (None, "", "none", "gain:0,compression:1"):
        assert augment.canonical(nothing) is None
    for wrong, message in (
        ("reverb", "unknown augmentation 'reverb'"),
        ("gain:loud", "gain:STRENGTH .*received 'gain:loud'"),
        ("gain:-1", "from 0 to 60, received -1"),
        ("gain:nan", "received nan"),
        ("phase:1.5", "a whole number"),
        ("compression:0.5", "from 1 to 20"),
        ("gain,gain:3", "each augmentation once"),
    ):
        with pytest.raises(InputError, match=message):
            augment.parse(wrong)
    with pytest.raises(InputError, match="from 0 to 1, received 2"):
        Augmentation({"mute": 2.0}, RATE)
