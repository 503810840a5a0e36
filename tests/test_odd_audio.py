"""What a scan accepts is what training reads, sample for sample; everything else is one line that names the file."""

import errno
import io
import os
import re
import socket
import wave
from pathlib import Path

import keras
import numpy as np
import odd_audio
import pytest
import soundfile
import tensorflow as tf

from spectrovae import audio
from spectrovae.data import Manifest, Recordings, scan
from spectrovae.errors import InputError, within_graphs

SPLITS = ("train", "validation", "test")


def fill(folder, cases):
    for case in cases:
        (folder / case.name).write_bytes(case.content)
    soundfile.write(folder / "sound.wav", np.full(400, 0.25), odd_audio.RATE)
    return folder


def trained_on(manifest, samples, **options):
    """What the pipeline gives for each recording at 8 kHz."""
    recordings = Recordings.open(manifest, samples=samples, sample_rate=odd_audio.RATE, split="hash", **options)
    found = {}
    for split in SPLITS:
        if examples := recordings.examples(split):
            rows = np.concatenate([batch.numpy() for batch in recordings.waveforms(split, 64)])
            found |= {example.path: row for example, row in zip(examples, rows)}
    return found


@pytest.mark.parametrize("kind", odd_audio.KINDS)
def test_odd_files_give_their_samples_or_one_line(tmp_path, kind):
    cases = list(odd_audio.KINDS[kind]())
    assert len(cases) >= 10
    assert len({case.name for case in cases}) == len(cases)
    found = scan(fill(tmp_path, cases))
    records = {record.path: record for record in found.records}
    assert len(records) == len(cases) + 1
    longest = max(record.samples for record in found.accepted)
    cached = trained_on(found, longest, long="crop")
    streamed = trained_on(found, longest, long="crop", cache_bytes=0)
    for case in cases:
        record = records[case.name]
        if case.error:
            assert not record.accepted, case.name
            assert re.search(case.error, record.reason), (case.name, record.reason)
            assert "\n" not in record.reason
            continue
        assert record.accepted, (case.name, record.reason)
        assert (case.note or "") in (record.note or ""), (case.name, record.note)
        assert bool(case.note) == bool(record.note), (case.name, record.note)
        if case.samples is not None:
            assert record.samples == len(case.samples), case.name
            np.testing.assert_array_equal(cached[case.name][: record.samples], case.samples, err_msg=case.name)
        np.testing.assert_array_equal(streamed[case.name], cached[case.name], err_msg=case.name)
        assert not cached[case.name][record.samples :].any()


def test_a_piece_of_an_odd_file_is_a_piece_of_its_samples(tmp_path):
    for kind in ("lengths", "flacs", "cuts", "containers", "envelopes"):
        for case in odd_audio.KINDS[kind]():
            if case.error or case.samples is None or case.samples.size < 900:
                continue
            path = tmp_path / case.name
            path.write_bytes(case.content)
            piece = audio.read_segment(path, 700, 300, odd_audio.RATE, total=len(case.samples), intact=not case.note)
            expected = audio.fit_length(case.samples[700:1000], 300)
            np.testing.assert_array_equal(piece, expected, err_msg=case.name)
            path.unlink()


@pytest.mark.filterwarnings("ignore")
def test_what_a_scan_accepts_of_mutated_files_is_what_training_reads(tmp_path):
    compare_mutations(tmp_path, odd_audio.mutations(240))


def compare_mutations(folder, mutations):
    """Scan mutated files, and compare what was accepted with the pipeline, and wavs with Python's own module."""
    soundfile.write(folder / "sound.wav", np.full(400, 0.25), odd_audio.RATE)
    for name, content in mutations:
        (folder / name).write_bytes(content)
    found = scan(folder)
    assert all("\n" not in (record.reason or "") for record in found.records)
    usual = [record for record in found.accepted if record.sample_rate == odd_audio.RATE and record.samples < 50_000]
    assert len(usual) > len(found.records) // 4
    kept = Manifest(found.root, tuple(usual), found.pattern, scanned=found.scanned)
    rows = trained_on(kept, max(record.samples for record in usual), long="crop", cache_bytes=0)
    for record in usual:
        waveform, rate = audio.read(folder / record.path)
        assert (len(waveform), rate) == (record.samples, record.sample_rate)
        np.testing.assert_array_equal(rows[record.path][: record.samples], waveform, err_msg=record.path)
        if record.format == "WAV" and record.subtype == "PCM_16" and not record.note:
            compare_with_wave(folder / record.path, waveform)


def compare_with_wave(path, waveform):
    try:
        with wave.open(io.BytesIO(path.read_bytes())) as file:
            shape, width = (file.getnframes(), file.getnchannels()), file.getsampwidth()
            content = file.readframes(shape[0])
    except (wave.Error, EOFError):
        return  # what the module does not read
    if width == 2 and len(content) == 2 * shape[0] * shape[1]:
        numbers = np.frombuffer(content, "<i2").reshape(shape).astype(np.int64)
        np.testing.assert_array_equal(waveform, odd_audio.mono(numbers), err_msg=str(path))


def test_only_regular_files_are_opened(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    soundfile.write(tmp_path / "real.wav", np.full(400, 0.25), 8000)
    os.mkfifo(folder / "pipe.wav")
    os.symlink("/dev/zero", folder / "zero.wav")
    os.symlink("/dev/urandom", folder / "random.flac")
    os.symlink(folder / "pipe.wav", folder / "to_pipe.wav")
    os.symlink(folder / "loop.wav", folder / "loop.wav")
    os.symlink(folder / "absent", folder / "broken.wav")
    os.symlink(tmp_path / "real.wav", folder / "link.wav")
    (folder / "folder.wav").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.wav"))
        found = scan(folder)
        reasons = {record.path: record.reason for record in found.rejected}
        assert [record.path for record in found.accepted] == ["link.wav"]
        for name in ("pipe.wav", "zero.wav", "random.flac", "to_pipe.wav", "socket.wav"):
            assert "not a regular file" in reasons[name], reasons
        assert sorted(reasons) == [
            "broken.wav", "loop.wav", "pipe.wav", "random.flac", "socket.wav", "to_pipe.wav", "zero.wav"
        ]  # fmt: skip
        for name in (*reasons, "folder.wav"):
            with pytest.raises(InputError, match=re.escape(name)):
                audio.read(folder / name)


def test_an_mp3_that_states_no_length_is_read_to_its_end(tmp_path):
    """Of a variable bit rate, quiet at first: by its first frames, it would be much shorter than it is."""
    random, file = np.random.default_rng(0), io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3) as mp3:
        mp3.write(np.repeat([0.001, 0.5], 80_000) * random.standard_normal(160_000))
    content = file.getvalue()
    streamed = content[content.index(content[:2], 4) :]  # without the frame that states the length
    (tmp_path / "stated.mp3").write_bytes(content)
    expected, _ = audio.read(tmp_path / "stated.mp3")
    for name, content in {"a.mp3": streamed, "tag.mp3": streamed + b"TAG" + bytes(125)}.items():
        (tmp_path / name).write_bytes(content)
        waveform, _ = audio.read(tmp_path / name)
        assert len(waveform) % 576 == 0  # frames
        np.testing.assert_allclose(waveform[1105:][: len(expected)], expected, atol=1e-6)  # the delay of LAME
        assert audio.info(tmp_path / name).note is None
        piece = audio.read_segment(tmp_path / name, 150_000, 900, 8000, total=len(waveform))
        np.testing.assert_array_equal(piece, waveform[150_000:150_900])


def test_links_between_folders_end_and_a_folder_counts_once(tmp_path):
    for name in ("dog/a.wav", "cat/b.wav", ".trash/c.wav", "dog/.old/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.full(400, 0.25), 8000)
    (tmp_path / "elsewhere").mkdir()
    soundfile.write(tmp_path / "elsewhere" / "e.wav", np.full(400, 0.25), 8000)
    (tmp_path / "elsewhere").rename(folder := tmp_path.parent / f"{tmp_path.name}-elsewhere")
    for link, target in (
        ("a", "."), ("b", "."), ("dog/up", ".."), ("cat/dog", "../dog"), ("all", folder), ("all2", folder),
    ):  # fmt: skip
        os.symlink(target, tmp_path / link)
    found = scan(tmp_path)
    assert [record.path for record in found.accepted] == ["all/e.wav", "cat/b.wav", "dog/a.wav"]
    assert found.endings == {"hidden": 2}


NAMES = [
    b"Gr\xfcn.wav", "\N{DRUM WITH DRUMSTICKS} kick.wav".encode(), b"two words.wav", b"it's \"loud\".wav",
    b"line\nbreak.wav", b"-dash.wav",
    b"UP.WAV", b"n" * 246 + b".wav", b"<b>bold & more.wav", b"100%25.wav", b"%s%n.wav", b"a,b;c.wav",
    b"tab\there.wav", "\xfcn\xef.wav".encode(), "e\u0301/a.wav".encode(), "\xe9/a.wav".encode(), b"\xff\xfe/\x80.wav",
    b"{0}.wav", b"$x^2$.wav", b"back\\slash.wav", b"a\xe2\x80\xa8.wav", b"*.wav", b"~.wav", b"--help.wav", b"a\rb.wav",
]  # fmt: skip


def test_any_name_is_read_and_written_to_a_manifest(tmp_path):
    root = os.fsencode(tmp_path / "data")
    for number, name in enumerate(NAMES):
        os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
        content = odd_audio.written(odd_audio.integers(seed=number), "WAV")
        with open(os.path.join(root, name), "wb") as file:
            file.write(content)
    found = scan(tmp_path / "data")
    assert {os.fsencode(record.path) for record in found.accepted} == set(NAMES)
    by_speaker = found.named(pattern=r"(?P<speaker>[^/]+)").splits("speaker")
    assert sum(map(len, by_speaker.values())) == len(NAMES)
    found.write(tmp_path / "m.jsonl")
    assert Manifest.read(tmp_path / "m.jsonl") == found
    for cache_bytes in (0, 1 << 30):
        rows = trained_on(Manifest.read(tmp_path / "m.jsonl"), odd_audio.LENGTH, cache_bytes=cache_bytes)
        for number, name in enumerate(NAMES):
            expected = odd_audio.mono(odd_audio.integers(seed=number))
            np.testing.assert_array_equal(rows[os.fsdecode(name)], expected)
    with pytest.raises(InputError) as raised:
        audio.read(tmp_path / "line\nbreak\udcfc.wav")
    assert str(raised.value).endswith(r"line\nbreak\udcfc.wav does not exist")


def test_folders_that_cannot_be_listed_are_reported(tmp_path, monkeypatch):
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", np.full(400, 0.25), 8000)
        (tmp_path / folder / "a.m4a").write_bytes(b"")
    (tmp_path / "noted").write_bytes(b"")
    listed = os.scandir

    def refuse(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = scan(tmp_path)
    assert found.unreadable == ("cat",)
    assert (found.endings, found.ignored) == ({".m4a": 1, "": 1}, 2)
    assert [record.path for record in found.accepted] == ["dog/a.wav"]
    found.write(tmp_path / "m.jsonl")
    assert Manifest.read(tmp_path / "m.jsonl") == found


def test_levels_beyond_sense_are_named(tmp_path):
    tone = 0.3 * np.sin(np.arange(4000) / 5)
    soundfile.write(tmp_path / "loud.wav", tone * 32768, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "dc.wav", np.stack([0.5 + tone, tone], 1), 8000)
    soundfile.write(tmp_path / "fine.wav", tone, 8000)
    soundfile.write(tmp_path / "over.wav", 5 * tone, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.5), 8000)
    records = {record.path: record for record in scan(tmp_path).records}
    assert [path for path, record in records.items() if record.loud] == ["loud.wav"]
    assert [path for path, record in records.items() if record.dc] == ["dc.wav"]
    assert re.search(r"its peak is 9\.83e\+03 times full scale", records["loud.wav"].note)
    assert "offset" in records["dc.wav"].note
    assert [records[name].note for name in ("fine.wav", "over.wav", "short.wav")] == [None] * 3


def test_memory_is_bounded_by_values_not_by_frames(tmp_path):
    soundfile.write(tmp_path / "many.wav", np.zeros((2000, 512), np.int16), 8000)
    blocks = list(audio.blocks(tmp_path / "many.wav"))
    assert max(block.size for block in blocks) <= audio.BLOCK
    assert sum(block.shape[1] for block in blocks) == 2000


def test_positions_beyond_2_to_the_31_are_read(tmp_path):
    """A sparse wav of 2^31 + 1000 samples of 8 bits, the last of which are no silence."""
    samples, path = 2**31 + 1000, tmp_path / "long.wav"
    numbers = odd_audio.integers(8, 1, 600)
    content = odd_audio.riff(odd_audio.fmt(8), odd_audio.chunk(b"data", b"", length=samples), size=samples + 36)
    with path.open("wb") as file:
        file.write(content)
        file.seek(len(content) + samples - 600)
        file.write(odd_audio.packed(numbers, 8))
    assert audio.info(path).samples == samples
    piece = audio.read_segment(path, samples - 600, 600, odd_audio.RATE, total=samples)
    np.testing.assert_array_equal(piece, odd_audio.mono(numbers, 8))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("change", ["cut", "gone", "other"])
def test_a_recording_that_fails_in_training_is_named(tmp_path, cache_bytes, change, monkeypatch):
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.flac", odd_audio.integers(seed=number).astype(np.int16), 8000)
    recordings = Recordings.open(tmp_path, samples=odd_audio.LENGTH, cache_bytes=cache_bytes)
    name = recordings.examples("train")[3].path
    monkeypatch.setattr(Manifest, "check", lambda *_, **__: None)  # it changes after that
    if change == "gone":
        (tmp_path / name).unlink()
    elif change == "cut":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:900])
    else:
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))), within_graphs():
        for _ in recordings.waveforms("train", 4):
            pass


def test_a_recording_that_fails_in_the_middle_of_a_fit_is_named(tmp_path):
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", odd_audio.integers(seed=number).astype(np.int16), 8000)
    recordings = Recordings.open(tmp_path, samples=400, long="crop", cache_bytes=0)
    batches = recordings.waveforms("train", 2, first_epoch=0).map(lambda waveforms: (waveforms, waveforms))
    model = keras.Sequential([keras.layers.Dense(400)])
    model.compile(loss="mse", jit_compile=False)
    model.fit(batches, steps_per_epoch=2, verbose=0)
    name = recordings.examples("train")[0].path
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{re.escape(name)} does not exist$"), within_graphs():
        model.fit(batches, epochs=2, steps_per_epoch=recordings.steps("train", 2), verbose=0)


def test_errors_in_graphs_come_out_as_they_went_in():
    def fail():
        raise InputError("a.wav is odd")

    with pytest.raises(InputError, match=r"^a.wav is odd$"), within_graphs():
        tf.numpy_function(fail, [], tf.float32)

    def many():
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match=r"Too many open files$") as raised, within_graphs():
        tf.numpy_function(many, [], tf.float32)
    assert raised.value.errno == errno.EMFILE
    with pytest.raises(tf.errors.InvalidArgumentError), within_graphs():
        tf.reshape(tf.zeros(3), [2])
    with pytest.raises(KeyError), within_graphs():
        raise KeyError("InputError: not TensorFlow's")
