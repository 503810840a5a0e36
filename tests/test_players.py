"""Sounds on a page: the loudness of BS.1770 by its own calibration and a filter of our own, equal and unclipped."""

import io

import numpy as np
import pytest
import soundfile
from scipy.signal import bilinear_zpk, freqz_zpk

from spectrovae.evaluation.players import loudness, match_levels, wav_bytes

RATE = 48_000


def tone(frequency=997.0, level=1.0, seconds=1.0, rate=RATE):
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def test_the_standards_tone_reads_its_level():
    """ITU-R BS.1770-4: a 997 Hz sine of full scale in one front channel reads -3.01 LKFS."""
    assert loudness(tone(), RATE) == pytest.approx(-3.01, abs=0.1)
    assert loudness(tone(level=0.1), RATE) == pytest.approx(-23.01, abs=0.1)
    assert loudness(tone(rate=8000), 8000) == pytest.approx(-3.01, abs=0.3)  # the filter is bent near 4 kHz


def test_the_standards_high_pass_is_followed():
    """The weighting's second stage, a double zero at 0 Hz and poles at 38 Hz of Q 0.5, makes a 20 Hz tone quieter."""
    poles = np.roots([1.0, 2 * np.pi * 38.135 / 0.5003, (2 * np.pi * 38.135) ** 2])
    response = [abs(freqz_zpk(*bilinear_zpk([0, 0], poles, 1.0, RATE), [2 * np.pi * f / RATE])[1][0]) for f in (20, 80)]
    expected = 20 * np.log10(response[0] / response[1])
    assert loudness(tone(20), RATE) - loudness(tone(80), RATE) == pytest.approx(expected, abs=0.2)


def test_pauses_do_not_count():
    word = tone(level=0.1, seconds=1.2)
    with_pause = np.concatenate([word, np.zeros(4 * RATE)])
    assert loudness(with_pause, RATE) == pytest.approx(loudness(word, RATE), abs=1.0)
    assert 10 * np.log10(np.mean(with_pause**2) / np.mean(word**2)) < -6  # as an RMS would have it
    assert loudness(np.zeros(RATE), RATE) == -np.inf
    assert np.isfinite(loudness(tone(seconds=0.02), RATE))  # shorter than a block


def test_levels_match_without_clipping():
    random = np.random.default_rng(0)
    sounds = [0.3 * random.normal(size=RATE), 0.01 * random.normal(size=RATE), tone(level=0.02), np.zeros(RATE)]
    players = match_levels(sounds, RATE)
    heard = [loudness(player.waveform, RATE) for player in players]
    np.testing.assert_allclose(heard[:3], heard[0], atol=0.01)
    assert heard[3] == -np.inf
    assert max(np.abs(player.waveform).max() for player in players) == pytest.approx(1.0)
    for sound, player in zip(sounds, players):  # the gain that is stated is the one applied
        np.testing.assert_allclose(player.waveform, sound * 10 ** (player.gain_db / 20), atol=1e-6)
    assert players[0].gain_db < 0 < players[1].gain_db


def test_a_silent_first_sound_leaves_the_others():
    players = match_levels([np.zeros(RATE), tone(level=0.5)], RATE)
    assert [player.gain_db for player in players] == [0, 0]


def test_wav_holds_the_waveform():
    waveform = np.linspace(-1.5, 1.5, 100)
    samples, rate = soundfile.read(io.BytesIO(wav_bytes(waveform, 8000)))
    assert rate == 8000
    np.testing.assert_allclose(samples, np.clip(waveform, -1, 1), atol=2**-14)


def test_what_is_no_number_is_silent():
    sound = np.r_[np.full(10, np.nan), 0.5, np.inf, -np.inf].astype(np.float32)
    samples, _ = soundfile.read(io.BytesIO(wav_bytes(sound, 8000)))
    np.testing.assert_allclose(samples, [*[0.0] * 10, 0.5, 1.0, -1.0], atol=2**-14)
