"""Every decoder gives the samples that soundfile gives, for every kind of file it claims."""

import itertools

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from spectrovae import audio
from spectrovae.data import decode
from spectrovae.errors import InputError

KINDS = [
    (".wav", "PCM_U8"),
    (".wav", "PCM_16"),
    (".wav", "PCM_24"),
    (".wav", "PCM_32"),
    (".wav", "FLOAT"),
    (".wav", "DOUBLE"),
    (".flac", "PCM_S8"),
    (".flac", "PCM_16"),
    (".flac", "PCM_24"),
    (".ogg", "VORBIS"),
    (".ogg", "OPUS"),
    (".mp3", "MPEG_LAYER_III"),
]


# What each decoder must read itself; asked for the rest it refuses, and unasked leaves it to the next.
READS = {
    "tensorflow-io": {"PCM_U8", "PCM_16", "PCM_24", "FLOAT", "VORBIS", "MPEG_LAYER_III"},
    "tf.audio": {"PCM_16"},
    "soundfile": {subtype for _, subtype in KINDS},
    None: {subtype for _, subtype in KINDS},
}


def need(name):
    if name is not None and name not in decode.available_decoders():
        pytest.skip(f"{name} does not load beside TensorFlow {tf.__version__}")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "suffix", "subtype"),
    [
        (name, *kind)
        for name, kind in itertools.product(READS, KINDS)
        if kind[1] in READS[name] and (name, kind[0]) != ("tf.audio", ".flac")
    ],
)
def test_decoders_agree(tmp_path, suffix, subtype, channels, name):
    need(name)
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).uniform(-1, 1, (1600, channels))
    noise[0], noise[1] = -1.0, 1.0
    soundfile.write(path, noise, 8000, subtype=subtype)
    header = audio.info(path)
    decoder = decode.decoder_for(header.format, header.subtype, name)
    samples = tf.function(decoder)(tf.io.read_file(str(path)))
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0]
    assert samples.shape == expected.shape
    assert samples.dtype == tf.float32
    np.testing.assert_allclose(samples, expected, atol=2e-6)


@pytest.mark.parametrize("name", decode.DECODERS)
def test_chunks_after_and_before_the_samples_are_no_samples(tmp_path, name):
    need(name)
    path = tmp_path / "titled.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        file.title = "odd"
        file.write(np.linspace(-1, 1, 101))
        file.comment = "written after the samples"
    samples = decode.decoder_for("WAV", "PCM_16", name)(tf.io.read_file(str(path)))
    np.testing.assert_allclose(samples[:, 0], np.linspace(-1, 1, 101), atol=1e-4)


def test_a_decoder_can_be_forced(monkeypatch):
    monkeypatch.setenv("SPECTROVAE_DECODER", "tf.audio")
    decode.decoder_for("WAV", "PCM_16")
    with pytest.raises(InputError, match="does not read FLAC"):
        decode.decoder_for("FLAC", "PCM_16")
    decode.decoder_for("FLAC", "PCM_16", "soundfile")
    monkeypatch.setenv("SPECTROVAE_DECODER", "ffmpeg")
    with pytest.raises(InputError, match="'ffmpeg' is not available"):
        decode.decoder_for("WAV", "PCM_16")


def test_without_tensorflow_io_the_others_take_over(monkeypatch):
    monkeypatch.setattr(decode, "_tensorflow_io", lambda: None)
    assert decode.available_decoders() == ("tf.audio", "soundfile")
    decode.decoder_for("MP3", "MPEG_LAYER_III")
    with pytest.raises(InputError, match="not available"):
        decode.decoder_for("WAV", "PCM_16", "tensorflow-io")


def test_operations_that_do_not_load_mean_no_tensorflow_io(monkeypatch):
    tensorflow_io = pytest.importorskip("tensorflow_io")

    def fail(*_, **__):
        raise NotImplementedError("undefined symbol")

    decode._tensorflow_io.cache_clear()
    monkeypatch.setattr(tensorflow_io.audio, "decode_wav", fail)
    assert decode._tensorflow_io() is None
    decode._tensorflow_io.cache_clear()
