"""Distances between waveforms against librosa, the speech packages themselves and closed forms."""

import librosa
import numpy as np
import pytest

from spectrovae.errors import InputError
from spectrovae.evaluation import sound_metrics
from spectrovae.evaluation.sound_metrics import RESOLUTIONS, Reference


@pytest.fixture(scope="module")
def pair():
    """Three harmonic sounds of 8 kHz that begin and end, and the same with noise."""
    random = np.random.default_rng(0)
    time = np.arange(8064) / 8000
    tones = [sum(np.sin(2 * np.pi * f * k * time) / k for k in range(1, 12)) for f in (110, 160, 230)]
    sounds = (0.1 * np.stack(tones) * np.sin(np.pi * time / time[-1])).astype(np.float32)
    return sounds, (0.8 * sounds + 0.01 * random.standard_normal(sounds.shape)).astype(np.float32)


def auraloss(reference, estimate):
    """auraloss's MultiResolutionSTFTLoss with its defaults, of one clip, by librosa."""
    found = []
    for n_fft, hop, window in RESOLUTIONS:
        x, y = (
            np.sqrt(np.maximum(
                np.abs(librosa.stft(
                    wave.astype(np.float64), n_fft=n_fft, hop_length=hop, win_length=window, pad_mode="reflect"
                )) ** 2,
                1e-8,
            ))
            for wave in (reference, estimate)
        )  # fmt: skip
        convergence = np.linalg.norm(x - y) / np.linalg.norm(x)
        found.append(convergence + np.mean(np.abs(np.log(x) - np.log(y))))
    return np.mean(found)


def test_multi_resolution_stft_is_that_of_auraloss(pair):
    found = Reference(pair[0], 8000).multi_resolution_stft(pair[1])
    np.testing.assert_allclose(found, [auraloss(x, y) for x, y in zip(*pair)], rtol=1e-4)


def test_a_gain_has_a_closed_form():
    """Of a gain g the convergence is |1 - g| and the log distance |ln g|, where no cell is at the floor."""
    noise = np.random.default_rng(1).standard_normal((2, 4000)).astype(np.float32)
    found = Reference(noise, 8000).multi_resolution_stft(0.5 * noise)
    np.testing.assert_allclose(found, 0.5 + np.log(2), rtol=1e-4)


def test_mel_cepstral_distortion_is_that_of_librosas_cepstra(pair):
    expected = []
    for clips in zip(*pair):
        mels = [
            librosa.feature.melspectrogram(y=wave, sr=8000, n_fft=256, hop_length=64, n_mels=40, pad_mode="constant")
            for wave in clips
        ]
        top = 10 * np.log10(mels[0].max())
        levels = [np.maximum(10 * np.log10(np.maximum(mel, 1e-20)), top - 80) for mel in mels]
        cepstra = [librosa.feature.mfcc(S=level, n_mfcc=14)[1:] for level in levels]
        frames = np.sqrt(np.sum((cepstra[0] - cepstra[1]) ** 2, axis=0) / 40)
        expected.append(frames[levels[0].max(axis=0) > top - 80].mean())
    found = Reference(pair[0], 8000).mel_cepstral_distortion(pair[1])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_mel_cepstral_distortion_does_not_hear_the_level(pair):
    loud = pair[0] + 0.01 * np.random.default_rng(2).standard_normal(pair[0].shape).astype(np.float32)
    found = Reference(loud, 8000).mel_cepstral_distortion(0.25 * loud)
    assert np.all(found < 0.05)


def test_si_sdr_closed_forms():
    random = np.random.default_rng(3)
    reference = random.standard_normal((1, 5000)).astype(np.float32)
    noise = random.standard_normal(reference.shape)
    noise -= reference * np.sum(noise * reference) / np.sum(reference**2, dtype=float)
    noise *= np.linalg.norm(reference) / np.linalg.norm(noise)
    originals = Reference(reference, 8000)
    for gain in (1.0, 0.3, -2.0):
        found = originals.si_sdr(gain * (reference + 0.1 * noise))
        np.testing.assert_allclose(found, 20.0, atol=1e-3)
    assert originals.si_sdr(reference) > 100
    np.testing.assert_array_equal(originals.si_sdr(0 * reference), -120.0)


def test_nothing_is_said_of_silence_and_little_of_short_clips(pair):
    silent = np.concatenate([np.zeros_like(pair[0][:1]), pair[0][:1]])
    found = Reference(silent, 8000).figures(silent + 0.01, phase=True)
    for name, values in found.items():
        assert np.isnan(values[0]), name
    for name in ("mr_stft", "mcd_db", "si_sdr_db"):
        assert np.isfinite(found[name][1]), name
    short = Reference(pair[0][:, :500], 8000)
    assert np.all(np.isnan(short.multi_resolution_stft(pair[1][:, :500])))
    assert np.all(np.isfinite(short.mel_cepstral_distortion(pair[1][:, :500])))
    assert np.all(np.isnan(short.stoi(pair[1][:, :500])))


def test_pesq_and_stoi_are_those_of_their_packages_with_coverage(speech):
    pesq, pystoi = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    noisy = speech + 0.002 * np.random.default_rng(4).standard_normal(speech.shape).astype(np.float32)
    originals = Reference(speech, 8000)
    found = originals.figures(noisy, phase=False)
    assert "si_sdr_db" not in found
    defined = 0
    for clip, (x, y) in enumerate(zip(speech, noisy)):
        if np.isfinite(found["pesq"][clip]):
            assert found["pesq"][clip] == pytest.approx(pesq.pesq(8000, x, y, "nb"))
        else:
            with pytest.raises(pesq.PesqError):
                pesq.pesq(8000, x, y, "nb")
        if np.isfinite(found["stoi"][clip]):
            defined += 1
            assert found["stoi"][clip] == pytest.approx(pystoi.stoi(x, y, 8000))
        else:
            with pytest.warns(RuntimeWarning, match="Not enough STFT frames"):
                assert pystoi.stoi(x, y, 8000) == 1e-5
    assert 0 < defined < len(speech)


def test_wide_band_pesq_from_16_khz_on(speech):
    pesq = pytest.importorskip("pesq")
    wide = librosa.resample(speech[:1], orig_sr=8000, target_sr=16000)
    noisy = wide + 0.01 * np.random.default_rng(5).standard_normal(wide.shape).astype(np.float32)
    assert Reference(wide, 16000).pesq(noisy)[0] == pytest.approx(pesq.pesq(16000, wide[0], noisy[0], "wb"))


def test_what_is_left_out_has_its_reason(monkeypatch):
    monkeypatch.setattr(sound_metrics, "_installed", lambda package: package != "pystoi")
    assert "search" in sound_metrics.absent(phase=False)["si_sdr_db"]
    reasons = sound_metrics.absent(phase=True)
    assert list(reasons) == ["stoi"]
    assert "pip install 'spectrovae[speech]'" in reasons["stoi"]


def test_shapes_must_agree():
    with pytest.raises(InputError, match="clips, samples"):
        Reference(np.zeros(100), 8000)
    with pytest.raises(InputError, match="shaped"):
        Reference(np.zeros((1, 100)), 8000).si_sdr(np.zeros((1, 101)))
