"""Codecs without seams, and long files through them with their latent moved on the way."""

import numpy as np
import pytest
from seamless import BANDS, FRAMES, seamless, sound

from spectrovae import audio, cli
from spectrovae.codec import Codec
from spectrovae.errors import InputError
from spectrovae.models import VAE
from spectrovae.representations import LogSTFT
from spectrovae.transfer import transfer


def test_a_latent_is_cut_into_segments_and_the_sound_is_not():
    codec = seamless()
    waveform = sound(3 * FRAMES * BANDS)[None]
    latent = codec.encode(waveform)
    assert latent.shape == (1, 3, FRAMES // 2, 3)
    features = codec.representation(waveform)
    np.testing.assert_allclose(latent.reshape(1, -1, 3), codec.encoder(features), atol=1e-6)
    whole = codec.representation.inverse(codec.decoder(codec.encoder(features))).numpy()
    np.testing.assert_allclose(codec.decode(latent), whole, atol=1e-6)
    np.testing.assert_allclose(codec.reconstruct(waveform), whole, atol=1e-6)


def test_a_codec_without_seams_survives_in_a_bundle(tmp_path):
    codec = seamless()
    codec.save(tmp_path / "bundle")
    again = Codec.load(tmp_path / "bundle", verify=True)
    assert again.feature_shape == (BANDS, FRAMES, 1)
    waveform = sound(1000)[None]
    np.testing.assert_allclose(again.reconstruct(waveform), codec.reconstruct(waveform), atol=1e-6)


def test_any_number_of_frames_needs_those_of_a_segment():
    codec = seamless()
    with pytest.raises(InputError, match="give segment_frames"):
        Codec(codec.representation, codec.encoder, codec.decoder)


@pytest.mark.parametrize("samples", [1, 900, 5 * FRAMES * BANDS, 3001])
@pytest.mark.parametrize("size", [100, 4000])
def test_transfer_is_the_whole_file_s_result(samples, size):
    codec = seamless()
    waveform = sound(samples)
    pieces = np.split(waveform, range(size, samples, size))
    found = np.concatenate(list(transfer(codec, pieces, samples)))
    np.testing.assert_allclose(found, codec.reconstruct(waveform[None])[0], atol=1e-5)


def test_dimensions_are_scaled_and_then_moved():
    codec = seamless()
    waveform = sound(2500)
    found = np.concatenate(list(transfer(codec, [waveform], 2500, scale={0: 2.0, 2: 0.0}, bias={2: -1.5})))
    latent = codec.encode(waveform[None]) * np.float32([2.0, 1.0, 0.0]) + np.float32([0.0, 0.0, -1.5])
    np.testing.assert_allclose(found, codec.decode(latent, 2500)[0], atol=1e-5)
    assert np.abs(found - codec.reconstruct(waveform[None])[0]).max() > 1e-2


def test_a_vector_latent_moves_too():
    trainer = VAE((32, 8, 1), 4, preset="tiny")
    codec = Codec(LogSTFT(8000, n_fft=64, hop_length=16), trainer.encoder, trainer.decoder, family="vae")
    waveform = sound(1500)
    plain, moved = (np.concatenate(list(transfer(codec, [waveform], 1500, bias=bias))) for bias in ({}, {1: 3.0}))
    assert plain.shape == moved.shape == (1500,)
    assert np.isfinite(moved).all()


def test_memory_does_not_grow_with_the_file():
    """What is held at any time: the pieces that were read ahead of the first that comes out."""
    codec, read = seamless(), []

    def pieces():
        for index in range(200):
            read.append(index)
            yield sound(1000, index)

    result = transfer(codec, pieces(), 200_000)
    next(result)
    assert len(read) < 20
    assert len(np.concatenate(list(result))) > 190_000


def test_bad_dimensions_are_refused():
    with pytest.raises(InputError, match="dimensions 0 to 2, received bias of 3"):
        next(transfer(seamless(), [sound(100)], 100, bias={3: 1.0}))


def test_the_command(tmp_path, capsys):
    seamless().save(tmp_path / "bundle")
    stereo = np.stack([sound(44100), sound(44100, 1)])
    audio.write(tmp_path / "in.wav", stereo, 44100)
    arguments = ["transfer", str(tmp_path / "bundle"), str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
    assert cli.main([*arguments, "--scale", "0:1.5", "--bias", "1:0.2,2:-1"]) == 0
    waveform, rate = audio.read(tmp_path / "out.wav")
    assert (rate, len(waveform)) == (8000, 8000)
    assert cli.main(arguments) == 2
    assert "out.wav exists" in capsys.readouterr().err
    (tmp_path / "text.wav").write_text("hello")
    arguments[2] = str(tmp_path / "text.wav")
    assert cli.main([*arguments, "--force"]) == 2
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--scale", "loud"])
    assert caught.value.code == 2
