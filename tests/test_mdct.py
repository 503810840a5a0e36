"""MDCT against a naive sum of cosines, TensorFlow's and SciPy's; companding against NumPy."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp.mdct import (
    WINDOWS,
    asinh_compress,
    asinh_expand,
    dct4,
    imdct,
    mdct,
    mdct_frame_count,
    mdct_window,
    mu_law_compress,
    mu_law_expand,
    sign_log,
    sign_log_expand,
)
from spectrovae.errors import InputError

FRAME_LENGTHS = (256, 512, 1024, 2048, 4096)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def naive_mdct(signal, frame_length, window):
    """The defining sum, frame by frame."""
    hop = frame_length // 2
    frames = -(-len(signal) // hop) + 1
    padded = np.zeros((frames + 1) * hop)
    padded[hop : hop + len(signal)] = signal
    n, k = np.arange(frame_length), np.arange(hop)[:, None]
    basis = np.sqrt(2 / hop) * np.cos(np.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5))
    return np.stack([basis @ (window * padded[i * hop :][:frame_length]) for i in range(frames)])


def tf_mdct(waveform, frame_length):
    padded = tf.pad(waveform, [[0, 0], [frame_length // 2, 0]])
    return tf.signal.mdct(padded, frame_length, pad_end=True, norm="ortho")


# Windows


@pytest.mark.parametrize("frame_length", [4, 20, *FRAME_LENGTHS])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_are_symmetric_and_power_complementary(window, frame_length):
    found = mdct_window(window, frame_length)
    np.testing.assert_allclose(found, found[::-1], atol=1e-14)
    first, second = np.split(found, 2)
    np.testing.assert_allclose(first**2 + second**2, 1.0, atol=1e-14)


@pytest.mark.parametrize("frame_length", FRAME_LENGTHS)
def test_windows_equal_scipy_and_tensorflow(frame_length):
    kaiser = scipy.signal.windows.kaiser_bessel_derived(frame_length, beta=4 * np.pi)
    np.testing.assert_allclose(mdct_window("kbd", frame_length), kaiser, atol=1e-12)
    vorbis = tf.signal.vorbis_window(frame_length, tf.float64)
    np.testing.assert_allclose(mdct_window("vorbis", frame_length), vorbis, atol=1e-12)
    sine = scipy.signal.windows.cosine(frame_length)
    np.testing.assert_allclose(mdct_window("sine", frame_length), sine, atol=1e-12)


@pytest.mark.parametrize("frame_length", [0, 2, 255, 258, -4])
def test_frame_lengths_that_are_no_multiple_of_4_are_refused(frame_length):
    with pytest.raises(InputError, match=f"multiple of 4, received {frame_length}"):
        mdct(tf.zeros([1, 100]), frame_length)


def test_unknown_window_is_refused():
    with pytest.raises(InputError, match="one of vorbis, sine, kbd, received 'hann'"):
        mdct(tf.zeros([1, 100]), 256, "hann")


# Transform


@pytest.mark.parametrize("n", [2, 6, 128, 2 * 127, 2048])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_dct4_equals_scipy(n, dtype, tolerance):
    signal = noise(2, 3, n).astype(dtype)
    found = dct4(tf.constant(signal)).numpy()
    assert found.dtype == dtype
    expected = scipy.fft.dct(signal.astype(np.float64), type=4, norm="ortho")
    assert relative_error(found, expected) < tolerance


@pytest.mark.parametrize("samples", [1, 5, 6, 7, 64, 201])
@pytest.mark.parametrize("frame_length", [4, 12, 64])
@pytest.mark.parametrize("window", WINDOWS)
def test_mdct_equals_naive_sum(window, frame_length, samples):
    waveform = noise(2, samples)
    found = mdct(tf.constant(waveform), frame_length, window).numpy()
    expected = np.stack([naive_mdct(row, frame_length, mdct_window(window, frame_length)) for row in waveform])
    assert found.shape == expected.shape == (2, mdct_frame_count(samples, frame_length), frame_length // 2)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("frame_length", FRAME_LENGTHS)
def test_mdct_and_its_inverse_equal_tensorflow(frame_length):
    waveform = tf.constant(noise(2, 10_000), tf.float32)
    ours, theirs = mdct(waveform, frame_length).numpy(), tf_mdct(waveform, frame_length).numpy()
    np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]], atol=1e-5)
    spectrum = tf.constant(noise(2, 7, frame_length // 2), tf.float32)
    inverse = tf.signal.inverse_mdct(spectrum, norm="ortho")[:, frame_length // 2 : -frame_length // 2]
    np.testing.assert_allclose(imdct(spectrum, frame_length), inverse, atol=1e-5)


@given(
    samples=st.one_of(st.integers(1, 5000), st.integers(1, 100_000)),
    batch=st.integers(1, 3),
    frame_length=st.one_of(st.sampled_from(FRAME_LENGTHS), st.integers(64, 1024).map(lambda quarter: 4 * quarter)),
    window=st.sampled_from(WINDOWS),
    precision=st.sampled_from([(np.float32, 1e-5), (np.float64, 1e-12)]),
)
def test_every_length_is_reconstructed_and_keeps_its_energy(samples, batch, frame_length, window, precision):
    dtype, tolerance = precision
    waveform = noise(batch, samples).astype(dtype)
    spectrum = mdct(tf.constant(waveform), frame_length, window)
    assert spectrum.shape == (batch, mdct_frame_count(samples, frame_length), frame_length // 2)
    rebuilt = imdct(spectrum, frame_length, window, samples).numpy()
    assert rebuilt.shape == waveform.shape
    assert rebuilt.dtype == dtype
    assert relative_error(rebuilt, waveform) < tolerance
    energy, expected = np.sum(np.float64(spectrum) ** 2), np.sum(np.float64(waveform) ** 2)
    assert abs(energy - expected) < tolerance * expected


@pytest.mark.parametrize("window", WINDOWS)
def test_boundaries_are_as_exact_as_the_middle(window):
    waveform = noise(1, 5000)
    error = imdct(mdct(tf.constant(waveform), 512, window), 512, window, 5000).numpy() - waveform
    assert np.max(np.abs(error)) < 1e-13


@pytest.mark.parametrize("window", WINDOWS)
def test_the_inverse_is_the_transpose_and_the_gradient(window):
    waveform, spectrum = tf.constant(noise(2, 1000)), tf.constant(noise(2, 9, 128, seed=1))
    with tf.GradientTape() as tape:
        tape.watch([waveform, spectrum])
        forward = tf.reduce_sum(mdct(waveform, 256, window) * spectrum)
        inverse = tf.reduce_sum(imdct(spectrum, 256, window, 1000) * waveform)
        both = forward + inverse
    np.testing.assert_allclose(forward, inverse, atol=1e-10)
    by_waveform, by_spectrum = tape.gradient(both, [waveform, spectrum])
    np.testing.assert_allclose(by_waveform, 2 * imdct(spectrum, 256, window, 1000), atol=1e-10)
    np.testing.assert_allclose(by_spectrum, 2 * mdct(waveform, 256, window), atol=1e-10)


def test_length_cuts_and_pads_with_zeros():
    spectrum = mdct(tf.constant(noise(2, 600)), 256)
    natural = imdct(spectrum, 256).numpy()
    assert natural.shape == (2, 640)
    np.testing.assert_allclose(natural[:, 600:], 0.0, atol=1e-12)
    np.testing.assert_array_equal(imdct(spectrum, 256, length=100), natural[:, :100])
    longer = imdct(spectrum, 256, length=1000).numpy()
    np.testing.assert_array_equal(longer, np.pad(natural, [(0, 0), (0, 360)]))


def test_a_row_does_not_depend_on_its_batch_and_a_batch_may_be_empty():
    waveform = tf.constant(noise(5, 3000), tf.float32)
    together = mdct(waveform, 512).numpy()
    alone = np.concatenate([mdct(waveform[i : i + 1], 512).numpy() for i in range(5)])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    assert mdct(waveform[:0], 512).shape == (0, 13, 256)
    assert imdct(tf.zeros([0, 13, 256]), 512).shape == (0, 3072)


def test_a_sine_peaks_in_its_bin():
    rate, bin_ = 8000, 40
    frequency = (bin_ + 0.5) * rate / 512
    waveform = tf.constant(np.sin(2 * np.pi * frequency * np.arange(8000) / rate)[None], tf.float32)
    level = np.mean(np.square(mdct(waveform, 512).numpy()[0, 2:-2]), axis=0)
    assert np.argmax(level) == bin_


@pytest.mark.parametrize("waveform", [tf.zeros([1, 9], tf.int16), tf.zeros([1, 9], tf.complex64)])
def test_integers_and_complex_numbers_are_refused(waveform):
    with pytest.raises(InputError, match=f"float32 or float64, received {waveform.dtype.name}"):
        mdct(waveform, 256)


def test_a_spectrum_of_another_frame_length_is_refused():
    with pytest.raises(InputError, match="frame_length=512 has 256 coefficients a frame, received 128"):
        imdct(tf.zeros([1, 3, 128]), 512)


# In a graph


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 1e-5), (tf.float64, 1e-12)])
def test_one_trace_serves_every_batch_and_length(jit_compile, dtype, tolerance):
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, None], dtype)], jit_compile=jit_compile)
    def round_trip(waveform):
        traces.append(1)
        spectrum = mdct(waveform, 512, "kbd")
        return spectrum, imdct(spectrum, 512, "kbd", tf.shape(waveform)[1])

    for batch, samples in [(1, 1), (2, 255), (3, 256), (2, 4001)]:
        waveform = tf.constant(noise(batch, samples), dtype)
        spectrum, rebuilt = round_trip(waveform)
        np.testing.assert_allclose(spectrum, mdct(waveform, 512, "kbd"), atol=tolerance)
        assert relative_error(rebuilt.numpy(), waveform.numpy()) < tolerance
    assert len(traces) == 1


def test_gradients_compile():
    waveform = tf.constant(noise(2, 1000), tf.float32)

    @tf.function(jit_compile=True)
    def gradient(waveform):
        with tf.GradientTape() as tape:
            tape.watch(waveform)
            loss = tf.reduce_sum(tf.square(mdct(waveform, 256)))
        return tape.gradient(loss, waveform)

    np.testing.assert_allclose(gradient(waveform), 2 * waveform, atol=1e-4)


def test_saved_model(tmp_path):
    module = tf.Module()
    module.forward = tf.function(lambda x: mdct(x, 256), input_signature=[tf.TensorSpec([None, None])])
    module.inverse = tf.function(
        lambda x, length: imdct(x, 256, length=length),
        input_signature=[tf.TensorSpec([None, None, 128]), tf.TensorSpec([], tf.int32)],
    )
    tf.saved_model.save(module, str(tmp_path / "mdct"))
    loaded = tf.saved_model.load(str(tmp_path / "mdct"))
    waveform = tf.constant(noise(2, 777), tf.float32)
    np.testing.assert_array_equal(loaded.forward(waveform), module.forward(waveform))
    assert relative_error(loaded.inverse(loaded.forward(waveform), 777).numpy(), waveform.numpy()) < 1e-5


# Companding

LEVELS = np.concatenate([-np.logspace(4, -8, 300), [0.0], np.logspace(-8, 4, 300)])
PRECISIONS = [(np.float32, 1e-5), (np.float64, 1e-12)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("scale", [1e-3, 0.0076, 1.0])
def test_asinh(scale, dtype, tolerance):
    coefficients = LEVELS.astype(dtype)
    compressed = asinh_compress(tf.constant(coefficients), scale).numpy()
    assert compressed.dtype == dtype
    np.testing.assert_allclose(compressed, np.arcsinh(np.float64(coefficients) / scale), rtol=tolerance)
    np.testing.assert_allclose(asinh_expand(compressed, scale), coefficients, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("mu", [1.0, 255.0, 65_535.0])
def test_mu_law(mu, dtype, tolerance):
    coefficients = LEVELS.astype(dtype)
    compressed = mu_law_compress(tf.constant(coefficients), mu).numpy()
    assert compressed.dtype == dtype
    exact = np.float64(coefficients)
    expected = np.sign(exact) * np.log1p(mu * np.abs(exact)) / np.log1p(mu)
    np.testing.assert_allclose(compressed, expected, rtol=tolerance)
    np.testing.assert_allclose(mu_law_expand(tf.constant(compressed), mu), coefficients, rtol=tolerance)
    np.testing.assert_allclose(mu_law_compress(tf.constant([-1.0, 1.0]), mu), [-1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_sign_log(dtype, tolerance):
    coefficients = LEVELS.astype(dtype)
    sign, level = sign_log(tf.constant(coefficients), floor_db=-80.0)
    assert sign.dtype == level.dtype == dtype
    above = np.abs(LEVELS) > 1e-4
    np.testing.assert_allclose(level, 20 * np.log10(np.maximum(np.abs(LEVELS), 1e-4)), atol=10 * tolerance)
    np.testing.assert_array_equal(sign, np.where(above, np.sign(LEVELS), 0.0))
    expanded = sign_log_expand(sign, level).numpy()
    np.testing.assert_allclose(expanded[above], coefficients[above], rtol=tolerance)
    assert not np.any(expanded[~above])


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda c: asinh_compress(c, 0.01), 100.0),
        (lambda c: asinh_expand(c, 0.01), 0.01),
        (lambda c: mu_law_compress(c, 255.0), 255.0 / np.log(256.0)),
        (lambda c: mu_law_expand(c, 255.0), np.log(256.0) / 255.0),
        (lambda c: sign_log(c, -80.0)[1], 0.0),
        (lambda c: sign_log_expand(*sign_log(c, -80.0)), 0.0),
    ],
)
def test_slopes_at_zero(function, slope):
    silence = tf.zeros([3])
    with tf.GradientTape() as tape:
        tape.watch(silence)
        total = tf.reduce_sum(function(silence))
    np.testing.assert_allclose(tape.gradient(total, silence), slope, rtol=1e-5)


@pytest.mark.parametrize("function", [asinh_compress, asinh_expand, mu_law_compress, mu_law_expand])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_scales_that_are_not_positive_are_refused(function, value):
    with pytest.raises(InputError, match=r"(scale|mu) must be positive, received"):
        function(tf.zeros([1]), value)


@pytest.mark.parametrize("window", WINDOWS)
def test_companded_round_trip(window):
    waveform = tf.constant(noise(2, 3000), tf.float32)
    spectrum = mdct(waveform, 512, window)
    for companded in (
        asinh_expand(asinh_compress(spectrum, 0.0076), 0.0076),
        mu_law_expand(mu_law_compress(spectrum)),
        sign_log_expand(*sign_log(spectrum, -120.0)),
    ):
        assert relative_error(imdct(companded, 512, window, 3000).numpy(), waveform.numpy()) < 1e-5
