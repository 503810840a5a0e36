"""Mel filters and spectra against librosa, and the inverse against the true magnitudes."""

import itertools

import librosa
import numpy as np
import pytest
import tensorflow as tf

from spectrovae.dsp.mel import hertz_to_mel, invert_mel, mel_filterbank, mel_spectrogram, mel_to_hertz
from spectrovae.dsp.stft import stft
from spectrovae.errors import InputError

N_FFT, HOP = 512, 128


@pytest.fixture(scope="module")
def magnitude(speech):
    return tf.abs(stft(tf.constant(speech), N_FFT, HOP))


def convergence(found, true):
    """Spectral convergence in dB, averaged over the rows."""
    error = np.linalg.norm(found - true, axis=(1, 2)) / np.linalg.norm(true, axis=(1, 2))
    return float(np.mean(20.0 * np.log10(error)))


@pytest.mark.parametrize("htk", [False, True])
def test_scale_like_librosa(htk):
    hertz = np.concatenate([np.linspace(0, 2000, 101), [1000.0, 4000.0, 22050.0]])
    mels = hertz_to_mel(hertz, htk)
    np.testing.assert_allclose(mels, librosa.hz_to_mel(hertz, htk=htk), rtol=1e-12)
    np.testing.assert_allclose(mel_to_hertz(mels, htk), librosa.mel_to_hz(mels, htk=htk), rtol=1e-12)
    np.testing.assert_allclose(mel_to_hertz(mels, htk), hertz, atol=1e-9)


GRID = itertools.product(
    [(8000, 512), (8000, 2048), (16000, 400), (22050, 2048), (44100, 4096)],
    [20, 80, 128, 256],
    [(0.0, None), (80.0, 3800.0)],
    [False, True],
    ["slaney", None],
)


@pytest.mark.filterwarnings("ignore:Empty filters")
def test_filters_like_librosa():
    for (rate, n_fft), n_mels, (f_min, f_max), htk, norm in GRID:
        ours = mel_filterbank(rate, n_fft, n_mels, f_min, f_max, htk, norm, allow_empty=True)
        theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max, htk=htk, norm=norm)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * theirs.max())


@pytest.mark.parametrize(("n_mels", "htk"), [(40, True), (80, False), (128, False), (256, False)])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_spectrogram_like_librosa(speech, n_mels, htk, power):
    n_fft = 1024
    filters = mel_filterbank(8000, n_fft, n_mels, htk=htk)
    ours = mel_spectrogram(tf.abs(stft(tf.constant(speech), n_fft, HOP)), filters, power).numpy()
    theirs = librosa.feature.melspectrogram(
        y=speech.astype(np.float64), sr=8000, n_fft=n_fft, hop_length=HOP, n_mels=n_mels, htk=htk, power=power,
        pad_mode="constant",
    )  # fmt: skip
    theirs = np.swapaxes(theirs, -1, -2)
    ours, theirs = (20.0 / power * np.log10(np.maximum(x / theirs.max(), 1e-4**power)) for x in (ours, theirs))
    loud = theirs > -50.0
    np.testing.assert_allclose(ours[loud], theirs[loud], atol=1e-4)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)  # down to -80 dB, where float32 transforms are this exact


@pytest.mark.parametrize(("n_mels", "reached", "better"), [(80, -14.0, 1.0), (128, -20.2, 0.4)])
def test_inverse_is_near_and_better_than_the_pseudo_inverse(magnitude, n_mels, reached, better):
    filters = mel_filterbank(8000, N_FFT, n_mels)
    mel = mel_spectrogram(magnitude, filters, 1.0)
    found = invert_mel(mel, filters, power=1.0).numpy()
    clipped = np.maximum(mel.numpy() @ np.linalg.pinv(filters).T, 0.0)
    np.testing.assert_allclose(invert_mel(mel, filters, power=1.0, iterations=0).numpy(), clipped, atol=2e-3)
    assert np.min(found) >= 0.0
    assert convergence(found, magnitude) < reached
    assert convergence(found, magnitude) < convergence(clipped, magnitude) - better


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_inverse_explains_the_mel_spectrum(magnitude, power):
    filters = mel_filterbank(8000, N_FFT, 80)
    mel = mel_spectrogram(magnitude, filters, power)
    again = mel_spectrogram(invert_mel(mel, filters, power=power), filters, power)
    assert convergence(again.numpy(), mel.numpy()) < -30.0


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_inverse_scales_with_its_input(magnitude, scale):
    filters = mel_filterbank(8000, N_FFT, 80)
    mel = mel_spectrogram(magnitude, filters, 2.0)
    expected = invert_mel(mel, filters, iterations=20).numpy()
    found = invert_mel(mel * scale**2, filters, iterations=20).numpy() / scale
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_silence_negative_and_partial_input_stay_finite(magnitude):
    filters = mel_filterbank(8000, N_FFT, 80, f_min=300.0)
    assert not np.any(invert_mel(tf.zeros([2, 3, 80]), filters).numpy())
    assert not np.any(invert_mel(-tf.ones([1, 3, 80]), filters).numpy())
    single = tf.one_hot([[0, 40, 79]], 80)
    found = invert_mel(single, filters).numpy()
    assert np.all(np.isfinite(found))
    assert np.all(found.max(-1) > 0)
    below = invert_mel(mel_spectrogram(magnitude, filters, 1.0), filters, power=1.0).numpy()[..., :19]
    assert not np.any(below)  # 0 to 281 Hz: no filter reaches there


def test_inverse_in_a_graph_of_unknown_shape_row_by_row(magnitude):
    filters = mel_filterbank(8000, N_FFT, 40)
    mel = mel_spectrogram(magnitude[:3], filters, 1.0)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 40])])
    def graph(mel):
        return invert_mel(mel, filters, iterations=10, power=1.0)

    together = graph(mel).numpy()
    for row in range(3):
        alone = graph(mel[row : row + 1, :17]).numpy()
        np.testing.assert_allclose(alone[0], together[row, :17], rtol=1e-3, atol=1e-4)


def test_gradient_is_finite_on_silence():
    filters = mel_filterbank(8000, N_FFT, 40)
    magnitude = tf.zeros([1, 2, 257])
    for power in (1.0, 2.0):
        with tf.GradientTape() as tape:
            tape.watch(magnitude)
            mel = mel_spectrogram(magnitude, filters, power)
        assert np.all(np.isfinite(tape.gradient(mel, magnitude).numpy()))


def test_empty_filters_are_an_error_unless_allowed():
    with pytest.raises(InputError, match=r"of 256 mel filters are narrower than the 31\.25 Hz.*longer n_fft than 256"):
        mel_filterbank(8000, 256, 256)
    empty = np.all(mel_filterbank(8000, 256, 256, allow_empty=True) == 0.0, axis=1)
    assert np.any(empty)
    mel_filterbank(8000, 512, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"f_max": 5000.0}, "<= 4000 Hz"),
        ({"f_min": 4000.0}, "f_min=4000"),
        ({"f_min": -1.0}, "0 <= f_min"),
        ({"norm": "l2"}, "received 'l2'"),
        ({"n_mels": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        mel_filterbank(**{"sample_rate": 8000, "n_fft": 512, "n_mels": 40, **options})


def test_wrong_shapes_are_refused():
    filters = mel_filterbank(8000, 512, 40)
    with pytest.raises(InputError, match="257 bins, received 256"):
        mel_spectrogram(tf.ones([1, 2, 256]), filters)
    with pytest.raises(InputError, match="40 mel filters, received 80"):
        invert_mel(tf.ones([1, 2, 80]), filters)
