"""Pseudo-QMF bank against a naive bank of convolutions, SciPy's frequency response and sines."""

import importlib.util
import json

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp.pqmf import analysis, pqmf_filters, prototype, synthesis
from spectrovae.errors import InputError

BANDS = (2, 3, 4, 5, 8, 12, 16)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def snr(expected, found):
    """Signal-to-noise ratio in dB."""
    return 10 * np.log10(np.sum(np.square(expected)) / np.sum(np.square(expected - found)))


def response(filter_, points=1 << 15):
    """Frequencies in cycles per sample and magnitudes in dB."""
    frequency, gain = scipy.signal.freqz(filter_, worN=points, fs=1.0)
    return frequency, 20 * np.log10(np.abs(gain) + 1e-12)


def naive_analysis(signal, filters):
    """Filter with zeros around the signal, then keep one sample of each block of ``bands``: its middle."""
    bands, taps = filters.shape
    reach = taps // bands // 2
    padded = np.pad(signal.astype(np.float64), (2 * reach * bands, 2 * reach * bands + -len(signal) % bands))
    return np.stack([np.correlate(padded, row, "valid")[::bands] for row in filters], axis=-1)


def naive_synthesis(subbands, filters):
    """Put zeros between the samples and filter with the same filters, reversed in time."""
    bands, taps = filters.shape
    reach = taps // bands // 2
    total = 0.0
    for row, signal in zip(filters, subbands.T):
        sparse = np.zeros(len(signal) * bands)
        sparse[::bands] = signal
        total = total + bands * np.convolve(sparse, row)
    return total[2 * reach * bands : len(subbands) * bands]


# Prototype


@pytest.mark.parametrize("attenuation", [60, 70, 80, 90, 100])
@pytest.mark.parametrize("bands", BANDS)
def test_prototype(bands, attenuation):
    filter_ = prototype(bands, attenuation)
    np.testing.assert_allclose(filter_, filter_[::-1], atol=1e-15)
    frequency, level = response(filter_)
    assert np.max(level[frequency >= 0.5 / bands]) < -attenuation
    assert abs(level[0]) < 0.02
    assert np.interp(0.25 / bands, frequency, level) == pytest.approx(-3.01, abs=0.05)


def test_prototype_of_16_bands_is_short():
    assert len(prototype(16, 100.0)) == 336


@pytest.mark.parametrize("bands", [1, 0, -2, 2.5])
def test_impossible_numbers_of_bands_are_refused(bands):
    with pytest.raises(InputError, match=f"bands must be a whole number, at least 2, received {bands}"):
        prototype(bands)


@pytest.mark.parametrize("attenuation", [59.9, 100.1, float("nan")])
def test_attenuations_out_of_range_are_refused(attenuation):
    with pytest.raises(InputError, match=f"from 60 to 100 dB, received {attenuation}"):
        prototype(4, attenuation)


@pytest.mark.parametrize("bands", BANDS)
def test_filters_pass_their_band_and_no_other(bands):
    for band, filter_ in enumerate(pqmf_filters(bands, 100.0)):
        frequency, level = response(filter_)
        position = frequency * 2 * bands
        middle = np.abs(position - band - 0.5) < 0.05
        beyond = (position < band - 1) | (position > band + 2)
        assert np.max(np.abs(level[middle])) < 0.1
        assert np.max(level[beyond], initial=-np.inf) < -94.0  # twice the prototype's, where two images meet


# Analysis and synthesis


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("bands", BANDS)
def test_equals_naive_bank(bands, samples):
    filters = pqmf_filters(bands, 80.0)
    waveform = noise(2, samples)
    subbands = np.array(analysis(waveform, filters))
    expected = np.stack([naive_analysis(row, filters) for row in waveform])
    assert subbands.shape == expected.shape == (2, -(-samples // bands) + filters.shape[1] // bands - 1, bands)
    np.testing.assert_allclose(subbands, expected, atol=1e-5)
    rebuilt = np.array(synthesis(subbands, filters))
    naive = np.stack([naive_synthesis(row, filters) for row in expected])
    assert rebuilt.shape == naive.shape == (2, -(-samples // bands) * bands)
    np.testing.assert_allclose(rebuilt, naive, atol=1e-5)


@given(
    samples=st.one_of(st.integers(1, 2000), st.integers(1, 100_000)),
    batch=st.integers(1, 3),
    bands=st.integers(2, 16),
    attenuation=st.floats(80.0, 100.0),
)
def test_every_length_is_reconstructed_in_time(samples, batch, bands, attenuation):
    filters = pqmf_filters(bands, attenuation)
    waveform = noise(batch, samples)
    rebuilt = np.array(synthesis(analysis(waveform, filters), filters, samples))
    assert rebuilt.shape == waveform.shape
    assert snr(waveform, rebuilt) > 59.0


@pytest.mark.parametrize(
    ("bands", "attenuation", "expected"),
    [(16, 100, 60.5), (16, 90, 64.5), (16, 80, 61.5), (4, 100, 60.5), (2, 100, 60.5), (8, 60, 49.5)],
)
def test_reconstruction(bands, attenuation, expected):
    filters = pqmf_filters(bands, attenuation)
    waveform = noise(2, 16_000)
    rebuilt = np.array(synthesis(analysis(waveform, filters), filters, 16_000))
    assert snr(waveform, rebuilt) > expected


def test_reconstruction_of_speech(speech):
    filters = pqmf_filters(8, 90.0)
    rebuilt = np.array(synthesis(analysis(speech, filters), filters, speech.shape[1]))
    assert snr(speech, rebuilt) > 55.0


@pytest.mark.parametrize("samples", [1, 2048, 5001])
@pytest.mark.parametrize("bands", [2, 5, 16])
def test_without_tails_only_the_ends_suffer(bands, samples):
    filters = pqmf_filters(bands, 100.0)
    waveform = noise(2, samples)
    subbands = np.array(analysis(waveform, filters, tails=False))
    assert subbands.shape == (2, -(-samples // bands), bands)
    taps = filters.shape[1]
    tails = taps // bands // 2
    np.testing.assert_allclose(subbands, np.array(analysis(waveform, filters))[:, tails:-tails], atol=1e-6)
    rebuilt = np.array(synthesis(subbands, filters, samples, tails=False))
    assert rebuilt.shape == waveform.shape
    if samples > taps:
        inside = slice(taps // 2, samples - taps // 2)
        assert snr(waveform[:, inside], rebuilt[:, inside]) > 59.0
        middling = slice(4 * bands, samples - 4 * bands)
        assert snr(waveform[:, middling], rebuilt[:, middling]) > 50.0


@pytest.mark.parametrize("bands", BANDS)
def test_a_sine_ends_up_in_its_band_with_its_amplitude(bands):
    filters = pqmf_filters(bands, 100.0)
    position = np.arange(bands) + 0.43
    waveform = np.sin(np.pi * position[:, None] / bands * np.arange(8000)).astype(np.float32)
    subbands = np.array(analysis(waveform, filters, tails=False))[:, 40:-40]
    amplitude = np.sqrt(2 * np.mean(np.square(subbands), axis=1))
    np.testing.assert_allclose(np.diag(amplitude), 1.0, atol=0.02)
    assert np.max(amplitude - np.diag(np.diag(amplitude))) < 1e-3


def test_odd_bands_are_mirrored():
    filters = pqmf_filters(4, 100.0)
    for band in range(4):
        position = band + np.array([0.3, 0.6])
        waveform = np.sin(np.pi * position[:, None] / 4 * np.arange(8000)).astype(np.float32)
        subband = np.array(analysis(waveform, filters, tails=False))[:, :, band]
        frequency = np.argmax(np.abs(np.fft.rfft(subband * np.hanning(2000))), axis=1) / 1000
        np.testing.assert_allclose(frequency, [0.7, 0.4] if band % 2 else [0.3, 0.6], atol=0.002)


def test_float64_is_kept():
    filters = pqmf_filters(4, 90.0)
    waveform = noise(1, 500).astype(np.float64)
    subbands = analysis(waveform, filters)
    assert subbands.dtype == tf.float64
    np.testing.assert_allclose(subbands[0], naive_analysis(waveform[0], filters), atol=1e-13)


def test_a_row_does_not_depend_on_its_batch():
    filters = pqmf_filters(8)
    waveform = noise(4, 3000)
    together = np.array(analysis(waveform, filters))
    alone = np.concatenate([analysis(waveform[i : i + 1], filters) for i in range(4)])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_wrong_input_is_refused():
    filters = pqmf_filters(4)
    with pytest.raises(InputError, match="floating point, received int16"):
        analysis(np.zeros((1, 100), np.int16), filters)
    with pytest.raises(InputError, match="for 4 sub-bands, received 8"):
        synthesis(np.zeros((1, 100, 8), np.float32), filters)


# In a graph, and on another backend


def test_gradients_are_the_transposed_bank():
    filters = pqmf_filters(4)
    waveform, weights = tf.constant(noise(2, 1000)), tf.constant(noise(2, 250, 4, seed=1))
    with tf.GradientTape() as tape:
        tape.watch([waveform, weights])
        forward = tf.reduce_sum(analysis(waveform, filters, tails=False) * weights)
        backward = tf.reduce_sum(synthesis(weights, filters, tails=False) * waveform)
        both = 4 * forward + backward
    np.testing.assert_allclose(backward, 4 * forward, rtol=1e-4)
    by_waveform, by_weights = tape.gradient(both, [waveform, weights])
    np.testing.assert_allclose(by_waveform, 2 * synthesis(weights, filters, tails=False), atol=1e-4)
    np.testing.assert_allclose(by_weights, 8 * analysis(waveform, filters, tails=False), atol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("tails", [False, True])
def test_one_trace_serves_every_batch_and_length(tails, jit_compile):
    filters = pqmf_filters(8, 90.0)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, None])], jit_compile=jit_compile)
    def round_trip(waveform):
        traces.append(1)
        subbands = analysis(waveform, filters, tails)
        return subbands, synthesis(subbands, filters, tf.shape(waveform)[1], tails)

    for batch, samples in [(1, 1), (2, 8), (3, 1001)]:
        waveform = noise(batch, samples)
        subbands, rebuilt = round_trip(waveform)
        np.testing.assert_allclose(subbands, analysis(waveform, filters, tails), atol=1e-5)
        assert rebuilt.shape == (batch, samples)
        np.testing.assert_allclose(rebuilt, synthesis(subbands, filters, samples, tails), atol=1e-5)
    assert len(traces) == 1


JAX = """
import json, sys
import jax, numpy as np
from spectrovae.dsp.pqmf import analysis, pqmf_filters, synthesis

assert "tensorflow" not in sys.modules
filters = pqmf_filters(8, 90.0)
waveform = np.random.default_rng(0).standard_normal((2, 1001)).astype(np.float32)
round_trip = jax.jit(lambda x: synthesis(analysis(x, filters), filters, 1001))
gradient = jax.grad(lambda x: (analysis(x, filters) ** 2).sum())(waveform)
found = {"subbands": analysis(waveform, filters), "rebuilt": round_trip(waveform), "gradient": gradient}
print(json.dumps({name: np.asarray(value).tolist() for name, value in found.items()}))
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the jax extra")
def test_jax_gives_the_same(fresh_process):
    filters = pqmf_filters(8, 90.0)
    waveform = tf.constant(noise(2, 1001))
    with tf.GradientTape() as tape:
        tape.watch(waveform)
        subbands = analysis(waveform, filters)
        energy = tf.reduce_sum(tf.square(subbands))
    rebuilt, gradient = synthesis(subbands, filters, 1001), tape.gradient(energy, waveform)
    found = json.loads(fresh_process(JAX, KERAS_BACKEND="jax"))
    np.testing.assert_allclose(found["subbands"], subbands, atol=1e-5)
    np.testing.assert_allclose(found["rebuilt"], rebuilt, atol=1e-5)
    np.testing.assert_allclose(found["gradient"], gradient, atol=1e-4)
