"""tensorflow-io decodes in the graph only what it was proved to decode to soundfile's samples."""

import struct

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from spectrovae.data import Recordings, decode, scan
from spectrovae.errors import InputError

needs_tensorflow_io = pytest.mark.skipif(
    len(decode.available_decoders()) < 2, reason="tensorflow-io does not load beside this TensorFlow"
)


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        noise = np.random.default_rng(number).uniform(-1, 1, (900 + number, 1 + number % 2))
        soundfile.write(tmp_path / f"{number}.wav", noise, 8000)
    soundfile.write(tmp_path / "a.flac", noise, 8000)
    soundfile.write(tmp_path / "b.wav", noise, 8000, subtype="PCM_24")
    return tmp_path


def examples(recordings):
    batches = [batch.numpy() for split in ("train", "validation", "test") for batch in recordings.waveforms(split, 2)]
    return np.concatenate(batches)


@needs_tensorflow_io
def test_a_plain_wav_is_proved_in_a_child_and_decoded_in_the_graph(folder, monkeypatch):
    monkeypatch.setattr(decode, "WORTH", 5)
    recordings = Recordings.open(folder, samples=1000, cache_bytes=0)
    records = recordings.manifest.accepted
    proved = {record.path: record.checksum for record in records if record.checksum is not None}
    assert sorted(proved) == [f"{number}.wav" for number in range(5)]
    content = (folder / "3.wav").read_bytes()
    assert proved["3.wav"] == int(decode.checksum(tf.constant(content)))
    expected = soundfile.read(folder / "3.wav", dtype="float32", always_2d=True)[0]
    np.testing.assert_array_equal(decode.decode(tf.constant(content)), expected)
    by_soundfile = Recordings.open(folder, samples=1000, cache_bytes=0, decoder="soundfile")
    assert all(record.checksum is None for record in by_soundfile.manifest.accepted)
    np.testing.assert_array_equal(examples(recordings), examples(by_soundfile))
    # What fits in memory is decoded once, so that a proof would cost more than it saves; so for a few files.
    monkeypatch.setattr(decode, "WORTH", 6)
    few = Recordings.open(folder, samples=1000, cache_bytes=0)
    assert not any(record.checksum for record in few.manifest.accepted)
    monkeypatch.setattr(decode, "WORTH", 5)
    assert not any(record.checksum for record in Recordings.open(folder, samples=1000).manifest.accepted)


@needs_tensorflow_io
def test_a_header_that_changes_while_training_does_not_end_the_process(folder):
    recordings = Recordings.open(folder, samples=1000, cache_bytes=0, decoder="tensorflow-io")
    expected = examples(recordings)
    batches = {split: recordings.waveforms(split, 2) for split in ("train", "validation", "test")}
    for number in range(5):
        with (folder / f"{number}.wav").open("r+b") as file:
            file.seek(32)
            file.write(struct.pack("<H", 65535 * (number % 2)))  # tensorflow-io divides by it
    found = np.concatenate([batch.numpy() for split in batches.values() for batch in split])
    np.testing.assert_array_equal(found, expected)


def test_children_that_die_or_hang_leave_their_files_to_soundfile(folder, monkeypatch):
    records = [record for record in scan(folder).accepted if decode.is_plain(record)]
    paths = [bytes(folder / record.path) for record in records]
    program = (
        "import sys, os, json, time\n"
        "for line in sys.stdin:\n"
        "    name = bytes.fromhex(json.loads(line)[0])[-5:-4]\n"
        "    if name == b'1': os.abort()\n"
        "    if name == b'3': time.sleep(60)\n"
        "    print('checked', 'other' if name == b'2' else 7, flush=True)\n"
    )
    monkeypatch.setattr(decode, "_PROGRAM", program)
    monkeypatch.setattr(decode, "_START", 10.0)
    monkeypatch.setattr(decode, "_EACH", 0.5)
    assert decode._in_children(paths, records) == [7, None, None, None, 7]


def test_only_the_plain_header_is_offered(folder):
    records = {record.path: record for record in scan(folder).accepted}
    assert not decode.is_plain(records["a.flac"])
    assert not decode.is_plain(records["b.wav"])
    for number in range(5):
        record = records[f"{number}.wav"]
        assert decode.is_plain(record)
        assert (folder / record.path).read_bytes()[:44] == decode.header(record)


def test_a_decoder_can_be_forced(folder, monkeypatch):
    monkeypatch.setenv("SPECTROVAE_DECODER", "soundfile")
    assert decode.chosen() == "soundfile"
    monkeypatch.setenv("SPECTROVAE_DECODER", "ffmpeg")
    with pytest.raises(InputError, match="'ffmpeg' is not available"):
        Recordings.open(folder)
    assert decode.chosen("soundfile") == "soundfile"


def test_without_tensorflow_io_soundfile_decodes_everything(folder, monkeypatch):
    monkeypatch.setattr(decode, "_tensorflow_io", lambda: None)
    assert decode.available_decoders() == ("soundfile",)
    assert examples(Recordings.open(folder, samples=1000, cache_bytes=0)).shape == (7, 1000)
    with pytest.raises(InputError, match="not available"):
        decode.chosen("tensorflow-io")


def test_operations_that_do_not_load_mean_no_tensorflow_io(monkeypatch):
    tensorflow_io = pytest.importorskip("tensorflow_io")

    def fail(*_, **__):
        raise NotImplementedError("undefined symbol")

    decode._tensorflow_io.cache_clear()
    monkeypatch.setattr(tensorflow_io.audio, "decode_wav", fail)
    assert decode._tensorflow_io() is None
    decode._tensorflow_io.cache_clear()
