"""Features that are samples: what the filter bank gives, cross-fades, and their levels in dB."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectrovae.dsp import pqmf
from spectrovae.errors import InputError
from spectrovae.representations import Chunks, MagnitudePhase, Subbands, blocks


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def snr(wanted, found):
    return 10.0 * np.log10(np.sum(np.square(wanted)) / np.sum(np.square(wanted - found)))


@pytest.mark.parametrize(("rate", "bands"), [(8000, 4), (16000, 8), (22050, 8), (44100, 16), (48000, 16)])
def test_bands_go_by_rate(rate, bands):
    assert Subbands(rate).feature_shape(1600) == (bands, 1600 // bands, 1)


@pytest.mark.parametrize("bands", [2, 4, 16])
def test_subbands_are_the_shared_filter_bank(speech, bands):
    representation = Subbands(8000, bands=bands, peak=0.5)
    features = representation(speech).numpy()
    expected = np.asarray(pqmf.analysis(speech, pqmf.pqmf_filters(bands), tails=False))
    np.testing.assert_allclose(features[..., 0].transpose(0, 2, 1), expected / 0.5, atol=1e-6)
    edge = 4 * bands
    again = representation.inverse(features, speech.shape[1]).numpy()
    assert snr(speech[:, edge:-edge], again[:, edge:-edge]) > 55.0


def test_one_band_is_the_waveform(speech):
    representation = Subbands(8000, bands=1)
    np.testing.assert_array_equal(representation(speech).numpy()[:, 0, :, 0], speech)
    np.testing.assert_array_equal(representation.inverse(representation(speech)).numpy(), speech)


@given(
    samples=st.integers(1, 3000),
    length=st.integers(2, 500),
    overlap=st.floats(0.0, 0.5),
    seed=st.integers(0, 9),
)
def test_chunks_are_a_sliding_window_and_sum_to_the_waveform(samples, length, overlap, seed):
    waveform = noise(2, samples, seed=seed)
    representation = Chunks(8000, length=length, overlap=overlap)
    features = representation(waveform).numpy()
    shape = representation.feature_shape(samples)
    assert features.shape == (2, *shape)
    hop, count = length - round(length * overlap), shape[1]
    padded = np.pad(waveform, [(0, 0), (0, hop * count + length)])
    for chunk in range(count):
        np.testing.assert_array_equal(features[:, :, chunk, 0], padded[:, chunk * hop : chunk * hop + length])
    assert representation.samples_of(count) >= samples
    assert representation.feature_shape(representation.samples_of(count))[1] == count
    np.testing.assert_allclose(representation.inverse(features, samples).numpy(), waveform, atol=1e-6)


def test_neighbouring_chunks_are_cross_faded():
    representation = Chunks(8000, length=8, overlap=0.5)
    features = np.stack([np.zeros(8), np.ones(8)], axis=1)[None, ..., None]
    found = representation.inverse(features).numpy()[0]
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1], atol=1e-6)


MAKERS = [Subbands(8000, dynamic_range=150.0, max_db=6.1), Chunks(8000, length=8064, dynamic_range=150.0, max_db=6.1)]


@pytest.mark.parametrize("representation", MAKERS, ids=lambda r: r.name)
def test_levels_are_those_of_a_spectrogram(speech, representation):
    found = representation.decibels(speech).numpy()
    expected = MagnitudePhase(8000, dynamic_range=150.0, max_db=6.1).decibels(speech).numpy()
    np.testing.assert_array_equal(found, expected)
    assert len(representation.frequencies) == found.shape[1]
    in_blocks = np.concatenate(list(blocks.decibels(representation, [speech[0]], block_frames=7)), axis=1)
    np.testing.assert_allclose(in_blocks[..., 0], expected[0, ..., 0], atol=1e-3)
    features = representation(speech).numpy()
    again = representation.from_db(found).numpy()
    assert again.shape == features.shape
    np.testing.assert_allclose(again, features, atol=1e-5)
    # A sub-band lacks its filters' tails at both ends.
    inner = representation.to_db(features).numpy()[:, :, 2:-2, 0]
    loud = expected[:, :, 2:-2, 0] > -60
    assert np.abs(inner - expected[:, :, 2:-2, 0])[loud].max() < 0.6


@pytest.mark.parametrize("representation", MAKERS, ids=lambda r: r.name)
def test_a_disturbance_in_db_keeps_its_size(speech, representation):
    db = representation.decibels(speech).numpy()
    louder = representation.from_db(db + np.float32([3.0, 0.0, 0.0])).numpy()
    np.testing.assert_allclose(louder, representation(speech).numpy() * 10 ** (3 / 20), atol=1e-5)


@pytest.mark.parametrize("kind", [Subbands, Chunks])
def test_peak(speech, kind):
    peak = kind(8000).sample_peak([speech[:6], speech[6:]])
    assert peak == pytest.approx(np.abs(speech).max())
    features = kind(8000, peak=peak)(speech[:, :8064]).numpy()
    assert np.abs(features).max() < 1.6
    with pytest.raises(InputError, match="silent"):
        kind(8000).sample_peak([np.zeros((2, 100), np.float32)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subbands(8000, bands=0), "bands must be a whole number, at least 1, received 0"),
        (lambda: Subbands(8000, attenuation=20.0), "attenuation must be from 60 to 100 dB, received 20"),
        (lambda: Subbands(8000, peak=0.0), "peak must be positive, received 0"),
        (lambda: Subbands(8000, normalisation="per_bin"), "normalisation must be range for features that are samples"),
        (lambda: Chunks(8000, length=1), "length must be a whole number of samples, at least 2, received 1"),
        (lambda: Chunks(8000, overlap=0.7), "overlap must be from 0 to 0.5 of a chunk, received 0.7"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
