"""Block by block against the whole: features, waveforms, seams, memory."""

import itertools

import librosa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectrovae import audio, overlap
from spectrovae.errors import InputError
from spectrovae.representations import MDCT, Chunks, LogMel, LogSTFT, MagnitudePhase, Spectrum, Subbands, blocks

EXACT = {"max_db": 6.1, "dynamic_range": 160.0}
MAKERS = {
    "log-stft": lambda **options: LogSTFT(8000, n_fft=64, hop_length=16, **options),
    "log-stft, odd hop": lambda **options: LogSTFT(8000, n_fft=64, hop_length=13, **options),
    "log-mel": lambda **options: LogMel(8000, n_fft=64, hop_length=16, n_mels=10, **options),
    "cos-sin": lambda **options: MagnitudePhase(8000, n_fft=64, hop_length=16, **EXACT, **options),
    "cos-sin, odd hop": lambda **options: MagnitudePhase(8000, n_fft=64, hop_length=23, **EXACT, **options),
    "frequency": lambda **options: MagnitudePhase(
        8000, n_fft=64, hop_length=16, phase="instantaneous_frequency", **EXACT, **options
    ),
    "mdct": lambda **options: MDCT(8000, frame_length=32, **options),
    "mdct, sign and level": lambda **options: MDCT(
        8000, frame_length=32, companding="sign_log", dynamic_range=160.0, **options
    ),
    "subbands": lambda **options: Subbands(8000, bands=4, **options),
    "chunks": lambda **options: Chunks(8000, length=100, **options),
}
INVERTIBLE = [name for name in MAKERS if not name.startswith("log-")]


def sound(samples, seed=0):
    random = np.random.default_rng(seed)
    return np.clip(0.1 * random.standard_normal(samples), -1, 1).astype(np.float32)


def cut(values, sizes, axis=0):
    """Split into pieces of the sizes in turn, over and over."""
    ends = list(itertools.takewhile(lambda end: end < values.shape[axis], itertools.accumulate(itertools.cycle(sizes))))
    return np.split(values, ends, axis=axis)


def both_ways(name, waveform, sizes, block_frames, **options):
    """(features block by block, of the whole), (waveform block by block, of the whole)."""
    representation = MAKERS[name](**options)
    whole = np.asarray(representation(waveform[None]))
    found = np.concatenate(
        list(blocks.forward(representation, cut(waveform, sizes), block_frames=block_frames)), axis=1
    )
    again = blocks.inverse(representation, cut(whole[0], sizes, 1), len(waveform), block_frames=block_frames)
    return (found, whole[0]), (np.concatenate(list(again)), np.asarray(representation.inverse(whole, len(waveform)))[0])


@given(
    name=st.sampled_from(INVERTIBLE),
    samples=st.integers(1, 3000),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4),
    block_frames=st.integers(1, 50),
)
def test_blocks_are_the_whole(name, samples, sizes, block_frames):
    waveform = sound(samples)
    (found, whole), (again, expected) = both_ways(name, waveform, sizes, block_frames)
    assert found.shape == whole.shape
    advance = whole[..., 1:] - found[..., 1:]
    if name == "frequency":  # an angle over pi: 1 and -1 are the same
        advance = (advance + 1) % 2 - 1
    np.testing.assert_allclose(found[..., :1], whole[..., :1], atol=1e-5)
    np.testing.assert_allclose(advance, 0, atol=1e-4)
    assert again.shape == expected.shape
    np.testing.assert_allclose(again, expected, atol=1e-4 if name == "frequency" else 1e-6)
    if name != "subbands":  # whose first and last samples lack what the filters would need from outside
        np.testing.assert_allclose(again, waveform, atol=1e-4)


@given(samples=st.integers(1, 3000), size=st.integers(1, 700), block_frames=st.integers(1, 50))
@pytest.mark.parametrize("name", ["log-stft", "log-stft, odd hop"])
def test_features_that_drop_the_phase_are_the_whole_too(name, samples, size, block_frames):
    waveform = sound(samples)
    representation = MAKERS[name]()
    found = list(blocks.forward(representation, cut(waveform, [size]), block_frames=block_frames))
    assert all(block.shape[1] == block_frames for block in found[:-1])
    whole = np.asarray(representation(waveform[None]))[0]
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("length", [1, 500, 4096, 5000])
@pytest.mark.parametrize("name", [*INVERTIBLE, "log-stft"])
def test_any_length_may_be_asked_for(name, length):
    representation = MAKERS[name]()
    features = np.asarray(representation(sound(4096)[None]))
    found = np.concatenate(list(blocks.inverse(representation, cut(features[0], [9], 1), length, block_frames=40)))
    assert found.shape == (length,)
    if representation.keeps_phase:
        np.testing.assert_allclose(found, np.asarray(representation.inverse(features, length))[0], atol=1e-4)
    natural = np.concatenate(list(blocks.inverse(representation, [features[0]], block_frames=40)))
    assert len(natural) == representation.samples_of(features.shape[2])


@pytest.mark.parametrize("name", ["log-stft", "cos-sin", "mdct", "mdct, sign and level"])
def test_the_extremes_of_the_whole_file_scale_every_block(name):
    representation = MAKERS[name](normalisation="per_example")
    waveform = sound(4096) * np.linspace(0.05, 1, 4096, dtype=np.float32)
    with pytest.raises(InputError, match="whole file"):
        next(blocks.forward(representation, [waveform]))
    statistics = blocks.statistics(representation, cut(waveform, [1000]), block_frames=30)
    whole = representation(waveform[None])
    expected = representation.statistics(representation.decibels(waveform[None]))
    np.testing.assert_allclose(statistics, expected, atol=1e-3)
    found = blocks.forward(representation, cut(waveform, [1000]), statistics=statistics, block_frames=30)
    found = np.concatenate(list(found), axis=1)
    np.testing.assert_allclose(found, whole[0], atol=1e-4)
    if representation.keeps_phase:
        again = blocks.inverse(representation, [found], 4096, statistics=statistics, block_frames=30)
        np.testing.assert_allclose(np.concatenate(list(again)), waveform, atol=1e-4)


def test_bad_pieces_are_refused():
    representation = MAKERS["mdct"]()
    for wrong, says in (
        ([], "nothing"),
        ([np.zeros(0, np.float32)], "nothing"),
        ([np.zeros((2, 100), np.float32)], "samples"),
        ([np.zeros(100, np.int16)], "floating point"),
    ):
        with pytest.raises(InputError, match=says):
            list(blocks.forward(representation, wrong))
    with pytest.raises(InputError, match="nothing"):
        list(blocks.inverse(representation, []))
    with pytest.raises(InputError, match="block_frames"):
        list(blocks.forward(representation, [sound(100)], block_frames=0))
    whole = Spectrum(8000, n_fft=256)
    for nothing in ([], [np.zeros(0, np.float32)]):
        with pytest.raises(InputError, match="nothing"):
            list(blocks.forward(whole, nothing))
    for nothing in ([], [np.zeros((129, 0, 1), np.float32)]):
        with pytest.raises(InputError, match="nothing"):
            list(blocks.inverse(whole, nothing))


@pytest.mark.parametrize("name", ["log-stft", "mdct"])
def test_statistics_of_bins_count_every_frame_once(name):
    waveform = sound(4000) * np.linspace(0.01, 1, 4000, dtype=np.float32)
    full, cut_up = (MAKERS[name](normalisation="per_bin") for _ in range(2))
    full.adapt([waveform[None]])
    blocks.adapt(cut_up, cut(waveform, [700]), block_frames=5)
    np.testing.assert_allclose(cut_up.bin_mean, full.bin_mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cut_up.bin_std, full.bin_std, rtol=1e-4)


def test_one_long_array_is_cut_as_short_ones_are():
    waveform = sound(5000)[None]
    one = list(overlap.windows([waveform], 300, 50, 20))
    many = list(overlap.windows(np.split(waveform, 50, axis=1), 300, 50, 20))
    assert [found[1:] for found in one] == [found[1:] for found in many]
    for (first, *_), (second, *_) in zip(one, many):
        np.testing.assert_array_equal(first, second)


def test_a_cross_fade_keeps_the_level_and_mends_the_sign():
    random = np.random.default_rng(0)
    step, shared, fade = 6000, 3000, 512
    unlike = [random.standard_normal(step + shared).astype(np.float32) for _ in range(5)]
    joined = np.concatenate(list(overlap.joined(iter(unlike), step, fade)))
    assert len(joined) == 5 * step + shared
    windows = np.lib.stride_tricks.sliding_window_view(joined, fade)[::64]
    levels = 10 * np.log10(np.square(windows).mean(axis=1))
    assert levels.min() > -1.2  # a plain fade of unlike noises dips by 3 dB in its middle, 1.2 over all of it

    whole = random.standard_normal(4 * step + shared).astype(np.float32)
    flipped = [(-1) ** i * whole[i * step : (i + 1) * step + shared] for i in range(4)]
    np.testing.assert_allclose(np.concatenate(list(overlap.joined(iter(flipped), step, fade))), whole, atol=1e-5)


@pytest.mark.slow
def test_searched_phases_meet_without_a_dip(data_folder, monkeypatch):
    """A minute of music in blocks of 9 s: as good as in one, and as loud where they meet."""
    (path,) = (data_folder / "music").glob("*Vibe_Ace*.ogg")
    waveform = audio.read(path, 8000)[0][: 60 * 8000]
    representation = LogSTFT(8000, n_fft=512, hop_length=128)
    features = np.asarray(representation(waveform[None]))
    assert features.shape[2] > 3 * 576
    whole = np.asarray(representation.inverse(features, len(waveform)))[0]
    seams = []

    def cross_fade(*arguments, original=overlap._cross_fade):
        seam, sign, mixed = original(*arguments)
        seams.append((seam, len(mixed)))
        return seam, sign, mixed

    monkeypatch.setattr(overlap, "_cross_fade", cross_fade)
    again = np.concatenate(list(blocks.inverse(representation, [features[0]], len(waveform), block_frames=576)))
    assert not np.allclose(again, whole, atol=1e-2)
    reference, *estimates = (
        np.abs(librosa.stft(sound, n_fft=512, hop_length=128)) for sound in (waveform, whole, again)
    )
    convergence = [20 * np.log10(np.linalg.norm(found - reference) / np.linalg.norm(reference)) for found in estimates]
    assert convergence[1] < convergence[0] + 0.5
    for number, (seam, fade) in enumerate(seams, start=1):
        start = number * 576 * 128 + seam
        levels = [10 * np.log10(np.square(sound[start : start + fade]).mean()) for sound in (whole, again)]
        assert abs(levels[1] - levels[0]) < 1.0
    assert len(seams) > 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(fresh_process):
    code = """
import resource, sys
import numpy as np
from spectrovae.representations import LogSTFT, MagnitudePhase, blocks
random = np.random.default_rng(0)
pieces = (0.1 * random.standard_normal(80000, np.float32) for _ in range(6 * int(sys.argv[1])))
representation = MagnitudePhase(8000, n_fft=512, hop_length=128)
seconds = sum(len(x) for x in blocks.inverse(representation, blocks.forward(representation, pieces))) / 8000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    short, long = (float(fresh_process(code, minutes)) for minutes in (2, 10))
    # Ten minutes are 19 MB of samples, 115 MB of features and as much again in between.
    assert long < short + 40


def test_what_is_of_the_whole_sound_is_not_cut():
    representation, waveform = Spectrum(8000, n_fft=256, content="magnitude_phase"), sound(5000)
    (features,) = blocks.forward(representation, cut(waveform, [700]), block_frames=1)
    np.testing.assert_array_equal(features, np.asarray(representation(waveform[None]))[0])
    (again,) = blocks.inverse(representation, [features], 3000)
    np.testing.assert_array_equal(again, np.asarray(representation.inverse(features[None], 3000))[0])
