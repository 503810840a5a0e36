"""Phase recovery against librosa's Griffin-Lim and against the true phase, on real speech."""

import librosa
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp.phase import (
    METHODS,
    admm,
    causal,
    causal_state,
    causal_step,
    griffin_lim,
    invert_magnitude,
    pghi,
    pghi_phase,
)
from spectrovae.dsp.phase_gradient import advancing_phase
from spectrovae.dsp.stft import stft
from spectrovae.errors import InputError

N_FFT, HOP = 512, 128


def magnitude_of(waveform, n_fft=N_FFT, hop_length=HOP):
    spectrum = librosa.stft(waveform, n_fft=n_fft, hop_length=hop_length, pad_mode="constant")
    return np.float32(np.swapaxes(np.abs(spectrum), -1, -2))


def convergence(magnitude, waveform, n_fft=N_FFT, hop_length=HOP):
    """Spectral convergence in dB, averaged over the rows."""
    error = np.linalg.norm(magnitude - magnitude_of(waveform, n_fft, hop_length), axis=(1, 2))
    return float(np.mean(20.0 * np.log10(error / np.linalg.norm(magnitude, axis=(1, 2)))))


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (512, 256), (256, 64), (400, 160)])
def test_as_good_as_librosa_at_the_same_iterations(speech, n_fft, hop_length):
    magnitude = magnitude_of(speech, n_fft, hop_length)
    ours = griffin_lim(tf.constant(magnitude), n_fft, hop_length, iterations=32, momentum=0.99, length=8064)
    theirs = np.stack([
        librosa.griffinlim(
            row.T, n_iter=32, hop_length=hop_length, n_fft=n_fft, momentum=0.99, length=8064,
            pad_mode="constant", random_state=0,
        )
        for row in magnitude
    ])  # fmt: skip
    ours, theirs = (convergence(magnitude, x, n_fft, hop_length) for x in (ours.numpy(), theirs))
    assert ours < theirs + 1.0
    assert ours < -20.0


def test_momentum_and_iterations_help(speech):
    magnitude = magnitude_of(speech)

    def reached(**options):
        return convergence(magnitude, griffin_lim(tf.constant(magnitude), N_FFT, HOP, length=8064, **options).numpy())

    assert reached(momentum=0.99) < reached(momentum=0.0) - 3.0
    assert reached(iterations=32) < reached(iterations=4) - 3.0 < reached(iterations=0) - 6.0


def test_acceleration_is_the_published_recurrence(speech):
    """Nenov et al. (2023), algorithm 1, on spectra, by librosa's transforms."""
    magnitude = magnitude_of(speech[:1])[0].T
    alpha, beta, gamma = 0.9, 1.1, 1.2
    transform = {"n_fft": N_FFT, "hop_length": HOP, "pad_mode": "constant"}

    def projected(spectrum):
        exact = magnitude * np.exp(1j * np.angle(spectrum))
        return librosa.stft(librosa.istft(exact, hop_length=HOP, n_fft=N_FFT, length=8064), **transform)

    phase = np.random.default_rng(0).uniform(0.0, 2.0 * np.pi, magnitude.shape)
    before = ahead = carried = projected(magnitude * np.exp(1j * phase))
    for _ in range(5):
        consistent = projected(ahead)
        now = (1.0 - gamma) * carried + gamma * consistent
        ahead, carried, before = now + alpha * (now - before), now + beta * (now - before), now
    found = griffin_lim(
        tf.constant(magnitude.T[None]), N_FFT, HOP, iterations=5, momentum=alpha, inertia=beta, relaxation=gamma,
        length=8064, phase=tf.constant(phase.T[None], tf.float32),
    )  # fmt: skip
    wanted = librosa.istft(consistent, hop_length=HOP, n_fft=N_FFT, length=8064)
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=2e-3 * np.abs(wanted).max())


def test_acceleration_and_its_start_help(speech):
    magnitude = magnitude_of(speech)
    given = tf.constant(magnitude)

    def reached(iterations=16, **options):
        found = griffin_lim(given, N_FFT, HOP, iterations=iterations, length=8064, **options)
        return convergence(magnitude, found.numpy())

    accelerated = {"inertia": 1.2, "relaxation": 1.25}
    start = advancing_phase(given, N_FFT, HOP)
    assert reached(0, phase=start) < reached(0) - 1.0
    assert reached(**accelerated) < reached() - 1.0
    assert reached(phase=start, **accelerated) < reached(**accelerated) - 0.3


def test_advancing_phase_of_a_long_tone_stays_true():
    """437 Hz over two minutes: where the sum of the advances drifted, the tone would."""
    waveform = np.sin(2.0 * np.pi * 437.0 / 8000.0 * np.arange(960_000))[None].astype(np.float32)
    phase = advancing_phase(tf.constant(magnitude_of(waveform)), N_FFT, HOP).numpy()[0, 2:-2, 28]
    advance = np.diff(phase)
    wanted = 2.0 * np.pi * 437.0 / 8000.0 * HOP
    assert np.abs(np.angle(np.exp(1j * (advance - wanted)))).max() < 0.1


def test_seed_decides_the_result(speech):
    magnitude = tf.constant(magnitude_of(speech[:1]))
    first, again, other = (griffin_lim(magnitude, N_FFT, HOP, iterations=4, seed=seed).numpy() for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 1e-3


def test_a_row_does_not_depend_on_its_place_or_its_batch(speech):
    magnitude = tf.constant(magnitude_of(speech[:5]))
    together = griffin_lim(magnitude, N_FFT, HOP, iterations=8).numpy()
    turned = griffin_lim(magnitude[::-1], N_FFT, HOP, iterations=8).numpy()[::-1]
    alone = np.concatenate([griffin_lim(magnitude[i : i + 1], N_FFT, HOP, iterations=8).numpy() for i in range(5)])
    np.testing.assert_allclose(turned, together, atol=1e-4)
    np.testing.assert_allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("bins", [256, 80, 258])
def test_mel_or_nyquist_less_magnitudes_are_refused(bins):
    with pytest.raises(ValueError, match=f"257 bins for n_fft=512, received {bins}; invert a mel"):
        griffin_lim(tf.ones([1, 10, bins]), 512, 128)


@given(samples=st.integers(1, 600), hop_length=st.sampled_from([8, 24, 32]))
def test_any_length(samples, hop_length):
    waveform = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    magnitude = tf.constant(magnitude_of(np.pad(waveform, ((0, 0), (0, 64))), 64, hop_length))
    for length in (samples, None):
        found = griffin_lim(magnitude, 64, hop_length, iterations=2, length=length).numpy()
        assert found.shape == (2, (magnitude.shape[1] - 1) * hop_length if length is None else length)
        assert np.all(np.isfinite(found))


def test_one_sample_and_silence():
    one_frame = griffin_lim(tf.constant(magnitude_of(np.ones((1, 300)), 64, 16)[:, :1]), 64, 16, length=1).numpy()
    assert one_frame.shape == (1, 1)
    assert np.isfinite(one_frame).all()
    assert not np.any(griffin_lim(tf.zeros([2, 20, 33]), 64, 16).numpy())


def test_in_a_graph_of_unknown_shape(speech):
    @tf.function(input_signature=[tf.TensorSpec([None, None, N_FFT // 2 + 1], tf.float32), tf.TensorSpec([], tf.int32)])
    def graph(magnitude, length):
        return griffin_lim(magnitude, N_FFT, HOP, iterations=4, length=length)

    for rows, samples in [(1, 1), (3, 2000), (2, 8064)]:
        magnitude = tf.constant(magnitude_of(np.pad(speech[:rows, :samples], ((0, 0), (0, 600)))))
        expected = griffin_lim(magnitude, N_FFT, HOP, iterations=4, length=samples).numpy()
        np.testing.assert_allclose(graph(magnitude, samples).numpy(), expected, atol=1e-4)


@pytest.fixture(scope="module")
def librosa_reached(speech):
    """Spectral convergence of librosa's fast Griffin-Lim, 32 iterations."""
    magnitude = magnitude_of(speech)
    found = [
        librosa.griffinlim(row.T, n_iter=32, hop_length=HOP, length=8064, pad_mode="constant", random_state=0)
        for row in magnitude
    ]
    return convergence(magnitude, np.stack(found))


# method, iterations, how many dB better than librosa's 32 iterations (measured: 0.8, 0, -7, -0.2, -5, 1, 3, 6)
@pytest.mark.parametrize(
    ("method", "iterations", "better"),
    [
        ("accelerated_griffin_lim", 24, 0.4),
        ("fast_griffin_lim", 32, -1.0),
        ("griffin_lim", 32, -8.5),
        ("admm", 32, -1.0),
        ("pghi", 0, -6.0),
        ("pghi_fast_griffin_lim", 4, 0.3),
        ("pghi_fast_griffin_lim", 10, 2.3),
        ("pghi_fast_griffin_lim", 32, 5.0),
    ],
)
def test_methods_beside_librosa(speech, librosa_reached, method, iterations, better):
    magnitude = magnitude_of(speech)
    found = invert_magnitude(
        tf.constant(magnitude), N_FFT, HOP, method=method, iterations=iterations, length=8064
    ).numpy()
    assert convergence(magnitude, found) < librosa_reached - better


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (512, 256), (256, 64), (400, 100)])
def test_admm_is_about_as_good_as_griffin_lim(speech, n_fft, hop_length):
    magnitude = magnitude_of(speech[:6], n_fft, hop_length)
    given = tf.constant(magnitude)
    fast, other = (
        convergence(magnitude, method(given, n_fft, hop_length, length=8064).numpy(), n_fft, hop_length)
        for method in (griffin_lim, admm)
    )
    assert other < fast + 1.0


@pytest.mark.parametrize(("n_fft", "hop_length", "margin"), [(512, 128, 14.0), (256, 64, 14.0), (400, 160, 9.0)])
def test_integrated_phase_is_far_better_than_none(speech, n_fft, hop_length, margin):
    magnitude = magnitude_of(speech, n_fft, hop_length)
    given = tf.constant(magnitude)

    def reached(waveform):
        return convergence(magnitude, waveform.numpy(), n_fft, hop_length)

    options = {"iterations": 0, "length": 8064}
    zero = reached(griffin_lim(given, n_fft, hop_length, phase=tf.zeros_like(given), **options))
    chance = reached(griffin_lim(given, n_fft, hop_length, **options))
    assert reached(pghi(given, n_fft, hop_length, length=8064)) < min(zero, chance) - margin


def test_integrated_phase_of_tones_is_theirs():
    """Tones between bins, far apart: frame to frame each must advance by its own frequency."""
    time = np.arange(8000) / 8000.0
    hertz = np.array([437.0, 1222.0, 2711.0])
    waveform = np.sin(2.0 * np.pi * hertz[:, None] * time + 1.0).sum(0)
    magnitude = magnitude_of(np.float32(waveform[None]))
    phase = pghi_phase(tf.constant(magnitude), N_FFT, HOP).numpy()[0]
    bins = np.round(hertz * N_FFT / 8000.0).astype(int)
    advance = np.diff(phase[10:50, bins], axis=0) - 2.0 * np.pi * hertz * HOP / 8000.0
    assert np.max(np.abs(np.angle(np.exp(1j * advance)))) < 0.15


def test_integrated_phase_of_a_click_is_its_place():
    """A click has the phase of a delay: over the bins of the frames around it, a straight line."""
    waveform = np.zeros((1, 4096), np.float32)
    waveform[0, 2100] = 1.0
    magnitude = magnitude_of(waveform)
    phase = pghi_phase(tf.constant(magnitude), N_FFT, HOP).numpy()[0]
    true = np.angle(librosa.stft(waveform[0], n_fft=N_FFT, hop_length=HOP, pad_mode="constant")).T
    for frame, error in [(16, 0.1), (17, 0.25)]:  # radians per bin; the true slope is 2.5 and 4.1
        step = np.diff(phase[frame] - true[frame])
        assert np.median(np.abs(np.angle(np.exp(1j * step)))) < error


@pytest.mark.parametrize("method", METHODS)
def test_methods_do_not_mix_rows(speech, method):
    magnitude = tf.constant(magnitude_of(speech[:4]))

    def found(given):
        return invert_magnitude(given, N_FFT, HOP, method=method, iterations=3).numpy()

    together = found(magnitude)
    np.testing.assert_array_equal(found(magnitude), together)
    np.testing.assert_allclose(found(magnitude[::-1])[::-1], together, atol=1e-3)
    np.testing.assert_allclose(found(magnitude[2:3])[0], together[2], atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_methods_do_not_depend_on_loudness(speech, method):
    magnitude = tf.constant(magnitude_of(speech[:2]))
    loud = invert_magnitude(magnitude * 1024.0, N_FFT, HOP, method=method, iterations=2).numpy() / 1024.0
    found = invert_magnitude(magnitude, N_FFT, HOP, method=method, iterations=2).numpy()
    np.testing.assert_allclose(loud, found, atol=1e-3)


@given(
    samples=st.integers(1, 400),
    hop_length=st.sampled_from([8, 24, 32]),
    method=st.sampled_from([*METHODS, "causal"]),
    silent=st.booleans(),
)
def test_methods_take_any_length_and_silence(samples, hop_length, method, silent):
    waveform = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    magnitude = tf.constant(magnitude_of(np.pad(waveform, ((0, 0), (0, 64))), 64, hop_length))
    magnitude = tf.zeros_like(magnitude) if silent else magnitude
    if method == "causal":
        found = causal(magnitude, 64, hop_length, length=samples).numpy()
    else:
        found = invert_magnitude(magnitude, 64, hop_length, method=method, iterations=2, length=samples).numpy()
    assert found.shape == (2, samples)
    assert np.all(np.isfinite(found))
    assert np.any(found) != silent


@pytest.mark.parametrize("method", METHODS)
def test_methods_in_a_graph_of_unknown_shape(speech, method):
    @tf.function(input_signature=[tf.TensorSpec([None, None, N_FFT // 2 + 1]), tf.TensorSpec([], tf.int32)])
    def graph(magnitude, length):
        return invert_magnitude(magnitude, N_FFT, HOP, method=method, iterations=2, length=length)

    for rows, samples in [(1, 1), (3, 2000)]:
        magnitude = tf.constant(magnitude_of(np.pad(speech[:rows, :samples], ((0, 0), (0, 600)))))
        expected = invert_magnitude(magnitude, N_FFT, HOP, method=method, iterations=2, length=samples).numpy()
        np.testing.assert_allclose(graph(magnitude, samples).numpy(), expected, atol=1e-3)
    assert graph(tf.zeros([0, 5, 257]), 100).shape == (0, 100)


def test_not_a_number_does_not_reach_other_rows(speech):
    magnitude = magnitude_of(speech[:2])
    expected = invert_magnitude(tf.constant(magnitude), N_FFT, HOP, method="pghi").numpy()[1]
    magnitude[0, 3, 5] = np.nan
    found = invert_magnitude(tf.constant(magnitude), N_FFT, HOP, method="pghi").numpy()[1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="accelerated_griffin_lim, fast_griffin_lim, .*received 'wavenet'"):
        invert_magnitude(tf.ones([1, 10, 257]), 512, 128, method="wavenet")
    for method in METHODS:
        with pytest.raises(InputError, match="257 bins for n_fft=512, received 80; invert a mel"):
            invert_magnitude(tf.ones([1, 10, 80]), 512, 128, method=method)
    with pytest.raises(InputError, match="received 80"):
        causal_step(causal_state(1, 512), tf.ones([1, 80]), 512, 128)
    with pytest.raises(InputError, match="must not exceed n_fft=512"):
        causal_step(causal_state(1, 512), tf.ones([1, 257]), 512, 600)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (400, 160)])
def test_causal_steps_make_the_whole(speech, n_fft, hop_length):
    magnitude = tf.constant(magnitude_of(speech[:3], n_fft, hop_length))
    frames = magnitude.shape[1]
    whole = causal(magnitude, n_fft, hop_length).numpy()
    assert whole.shape == (3, (frames - 1) * hop_length)

    @tf.function
    def step(state, frame):
        return causal_step(state, frame, n_fft, hop_length)

    state, played = causal_state(3, n_fft), []
    for index in range(frames):
        state, samples = step(state, magnitude[:, index])
        assert samples.shape == (3, hop_length)
        played.append(samples.numpy())
    played = np.concatenate(played, axis=1)[:, hop_length + n_fft // 2 :]
    np.testing.assert_allclose(played, whole[:, : played.shape[1]], atol=1e-3)


def test_causal_result_knows_nothing_of_the_future(speech):
    magnitude = tf.constant(magnitude_of(speech[:1]))
    whole, start = causal(magnitude, N_FFT, HOP).numpy(), causal(magnitude[:, :20], N_FFT, HOP).numpy()
    known = 18 * HOP - N_FFT // 2
    np.testing.assert_allclose(start[:, :known], whole[:, :known], atol=1e-4)


def test_causal_phase_is_near_that_of_the_whole(speech):
    magnitude = magnitude_of(speech)

    def reached(iterations):
        found = causal(tf.constant(magnitude), N_FFT, HOP, iterations=iterations, length=8064)
        return convergence(magnitude, found.numpy())

    assert reached(0) < -17.5
    assert reached(2) < min(-19.5, reached(0) - 1.0)


def test_consistent_magnitudes_with_their_own_phase_come_back(speech):
    spectrum = stft(tf.constant(speech[:2]), N_FFT, HOP)
    accelerated = {"inertia": 1.2, "relaxation": 1.25}
    for method, options in [(griffin_lim, {"momentum": 0.99}), (griffin_lim, accelerated), (admm, {})]:
        found = method(
            tf.abs(spectrum), N_FFT, HOP, iterations=3, length=8064, phase=tf.math.angle(spectrum), **options
        )
        np.testing.assert_allclose(found.numpy(), speech[:2], atol=1e-4)
