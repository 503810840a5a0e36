"""Reading and writing: formats, shapes, and every way in which a file can be wrong."""

import resource

import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from spectrovae import audio
from spectrovae.errors import InputError, StorageError


def tone(samples=4000, rate=8000, frequency=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", "PCM_U8", 2 / 128),
        (".wav", "PCM_16", 1 / 32768),
        (".wav", "PCM_24", 2**-23),
        (".wav", "PCM_32", 1e-7),
        (".wav", "FLOAT", 0),
        (".flac", "PCM_16", 1 / 32768),
        (".flac", "PCM_24", 2**-23),
        (".ogg", "PCM_16", 0.02),
        (".mp3", "PCM_16", 0.06),
    ],
)
def test_a_written_file_reads_back_the_same(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"a{suffix}"
    assert audio.write(path, tone(), 8000, subtype) == 0
    waveform, rate = audio.read(path)
    assert rate == 8000
    assert waveform.dtype == np.float32
    assert waveform.shape == (4000,)
    # Lossy coders smear the very ends.
    assert np.abs(waveform - tone())[200:-200].max() <= tolerance
    header = audio.info(path)
    assert (header.sample_rate, header.channels, header.samples) == (8000, 1, 4000)
    assert header.duration == 0.5


def test_a_file_written_by_scipy_reads_the_same(tmp_path):
    path = tmp_path / "a.wav"
    wavfile.write(path, 22050, np.array([[0, 16384], [-32768, 8192]], np.int16))
    waveform, rate = audio.read(path, mono=False)
    assert rate == 22050
    np.testing.assert_array_equal(waveform, [[0, -1], [0.5, 0.25]])
    np.testing.assert_array_equal(audio.read(path)[0], [0.25, -0.375])


def test_stereo_44100_becomes_mono_8000(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = tone(44100, 44100), tone(44100, 44100, 880.0)
    audio.write(path, np.stack([left, right]), 44100)
    waveform, rate = audio.read(path, sample_rate=8000)
    expected = 0.5 * (tone(8000) + tone(8000, frequency=880.0))
    assert rate == 8000
    assert waveform.shape == (8000,)
    assert np.abs(waveform - expected)[200:-200].max() < 1e-3


@pytest.mark.parametrize(("source", "target"), [(8000, 44100), (44100, 8000), (22050, 16000)])
@pytest.mark.parametrize("samples", [1, 2, 5, 1000])
def test_resampling_any_length_gives_the_rounded_up_length(source, target, samples):
    resampled = audio.resample(tone(samples, source), source, target)
    assert resampled.shape == (int(np.ceil(samples * target / source)),)
    assert resampled.dtype == np.float32
    assert audio.resampled_length(samples, source, target) == resampled.size


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate", [22050, 16000, 44100])
def test_a_segment_is_a_slice_of_the_whole(tmp_path, suffix, rate):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 3 * 22050).astype(np.float32)
    path = tmp_path / f"long{suffix}"
    audio.write(path, np.stack([noise, noise[::-1]]), 22050)
    whole = audio.fit_length(audio.read(path, rate)[0], 3 * rate + 5000)
    for start in (0, 777, rate, 3 * rate - 1000):
        piece = audio.read_segment(path, start, 4000, rate)
        np.testing.assert_allclose(piece, whole[start : start + 4000], atol=1e-4)


def test_fit_length_crops_and_pads_at_the_end():
    np.testing.assert_array_equal(audio.fit_length(np.array([1, 2, 3]), 2), [1, 2])
    np.testing.assert_array_equal(audio.fit_length(np.array([[1, 2], [3, 4]]), 3), [[1, 2, 0], [3, 4, 0]])


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("rate", [11_025, 44_100, 192_000])
def test_a_short_recording_streams_as_it_is_read(tmp_path, rate, samples):
    audio.write(tmp_path / "short.wav", np.full(samples, 0.5), rate)
    for target in (8000, 16_000, 44_100):
        streamed = np.concatenate(list(audio.stream(tmp_path / "short.wav", target)))
        np.testing.assert_allclose(streamed, audio.read(tmp_path / "short.wav", target)[0], atol=1e-6)


@pytest.mark.parametrize("suffix", audio.WRITABLE)
def test_a_full_disk_is_said(tmp_path, suffix):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot write .*; make room"):
            audio.write(tmp_path / f"a{suffix}", noise, 8000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_one_sample_is_a_recording(tmp_path):
    audio.write(tmp_path / "one.wav", np.array([0.5]), 8000)
    np.testing.assert_array_equal(audio.read(tmp_path / "one.wav")[0], [0.5])
    assert audio.read(tmp_path / "one.wav", sample_rate=44100)[0].shape == (6,)


def write_bytes(path, content):
    path.write_bytes(content)
    return path


def wav_bytes(tmp_path):
    audio.write(tmp_path / "source.wav", tone(), 8000)
    return (tmp_path / "source.wav").read_bytes()


def test_bad_paths_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        audio.read(tmp_path / "absent.wav")
    with pytest.raises(InputError, match="is a folder"):
        audio.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.wav", b"", "empty"),
        ("text.wav", b"these are my notes, not a recording\n" * 9, "not readable audio"),
        ("text.mp3", b"these are my notes, not a recording\n" * 9, "not readable audio"),
        ("noise.flac", bytes(range(256)), "not readable audio"),
    ],
)
def test_files_that_are_not_audio_are_refused(tmp_path, name, content, reason):
    with pytest.raises(InputError, match=reason):
        audio.read(write_bytes(tmp_path / name, content))


@pytest.mark.parametrize("kept", [20, 44, 46, 4000])
def test_a_wav_of_which_less_than_half_is_there_is_refused(tmp_path, kept):
    path = write_bytes(tmp_path / "cut.wav", wav_bytes(tmp_path)[:kept])
    with pytest.raises(InputError, match="cut short|not readable|no samples"):
        audio.info(path)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
def test_a_compressed_file_of_which_a_third_is_there_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 16000)
    audio.write(tmp_path / f"all{suffix}", noise, 8000)
    content = (tmp_path / f"all{suffix}").read_bytes()
    path = write_bytes(tmp_path / f"cut{suffix}", content[: len(content) // 3])
    with pytest.raises(InputError, match="cut short|end is missing"):
        audio.read(path)


def test_a_wav_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(InputError, match="no samples"):
        audio.read(tmp_path / "none.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_neither_read_nor_written(tmp_path, value):
    bad = tone()
    bad[7] = value
    soundfile.write(tmp_path / "nan.wav", bad, 8000, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(InputError, match="NaN"):
        audio.write(tmp_path / "out.wav", bad, 8000)
    assert not (tmp_path / "out.wav").exists()


def test_clipping_is_counted_and_said(tmp_path):
    loud = tone(level=2.0)
    with pytest.warns(UserWarning, match="clipped"):
        clipped = audio.write(tmp_path / "loud.wav", loud, 8000)
    assert clipped == np.count_nonzero(np.abs(loud) > 1)
    assert audio.read(tmp_path / "loud.wav")[0].max() > 0.999
    assert audio.write(tmp_path / "loud.wav", loud, 8000, "FLOAT") == 0
    np.testing.assert_array_equal(audio.read(tmp_path / "loud.wav")[0], loud)


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        audio.write(tmp_path / "file" / "a.wav", tone(), 8000)
    with pytest.raises(InputError, match="must end in"):
        audio.write(tmp_path / "a.txt", tone(), 8000)
    with pytest.raises(InputError, match="no encoding"):
        audio.write(tmp_path / "a.flac", tone(), 8000, "FLOAT")
    with pytest.raises(InputError, match="at least one sample"):
        audio.write(tmp_path / "a.wav", np.zeros(0), 8000)
    with pytest.raises(InputError, match="cannot write"):
        audio.write(tmp_path / "a.mp3", tone(), 12345)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
