"""From files to batches: the right samples, in the right order, in the right split."""

import itertools
import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.stats
import soundfile
import tensorflow as tf

from spectrovae.data import Recordings, scan
from spectrovae.data.decode import available_decoders
from spectrovae.errors import InputError

SPLITS = ("train", "validation", "test")


def noise(seed, samples, level=0.3):
    return np.random.default_rng(seed).uniform(-level, level, samples)


def speak(folder, takes=20, digits=2, samples=300):
    """Recordings with FSDD's names: 5 for test, 5 for validation, the rest for training, for each digit."""
    folder.mkdir(exist_ok=True)
    for seed, (digit, take) in enumerate(itertools.product(range(digits), range(takes))):
        soundfile.write(folder / f"{digit}_theo_{take}.wav", noise(seed, samples + seed), 8000)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return speak(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Rates, channels, formats and encodings of all kinds, 0.5 s each but for one sample and 3 s."""
    folder = tmp_path_factory.mktemp("mixed")
    for seed, (name, rate, channels, subtype) in enumerate(
        [
            ("a.wav", 8000, 1, "PCM_16"),
            ("b.wav", 44100, 2, "PCM_16"),
            ("c.wav", 8000, 1, "PCM_24"),
            ("d.wav", 22050, 2, "FLOAT"),
            ("e.flac", 16000, 1, "PCM_16"),
            ("f.ogg", 8000, 2, "VORBIS"),
            ("g.mp3", 44100, 1, "MPEG_LAYER_III"),
            ("h.wav", 8000, 1, "PCM_32"),
        ]
    ):
        soundfile.write(folder / name, noise(seed, (rate // 2, channels)), rate, subtype=subtype)
    soundfile.write(folder / "one.wav", [0.25], 8000)
    soundfile.write(folder / "silence.wav", np.zeros(4000), 8000)
    soundfile.write(folder / "long.wav", noise(99, (3 * 44100, 2)), 44100)
    return folder


def stack(dataset):
    return np.concatenate([batch.numpy() for batch in dataset])


def expected(folder, example, samples, rate=8000):
    """What librosa makes of an example."""
    waveform, _ = librosa.load(folder / example.path, sr=rate, mono=True, res_type="soxr_hq")
    piece = waveform[example.start : example.start + samples]
    return np.pad(piece, (0, samples - piece.size))


@pytest.mark.parametrize("decoder", [None, "soundfile"])
@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
@pytest.mark.parametrize("long", ["crop", "chunk"])
def test_batches_hold_what_librosa_reads(mixed, long, cache_bytes, decoder):
    recordings = Recordings.open(mixed, samples=5000, long=long, cache_bytes=cache_bytes, decoder=decoder)
    assert (recordings.sample_rate, recordings.samples) == (8000, 5000)
    pieces = 0
    for split in SPLITS:
        waveforms = stack(recordings.waveforms(split, 3))
        examples = recordings.examples(split)
        assert waveforms.shape == (len(examples), 5000)
        assert waveforms.dtype == np.float32
        for waveform, example in zip(waveforms, examples):
            np.testing.assert_allclose(waveform, expected(mixed, example, 5000), atol=2e-4)
            pieces += example.path == "long.wav"
    # 24 000 samples: pieces from 0, 2500, ... 17 500, and the last 5000.
    assert pieces == (9 if long == "chunk" else 1)


@pytest.mark.parametrize("name", available_decoders())
def test_every_decoder_feeds_the_same_batches(speech, name):
    ours = stack(Recordings.open(speech, samples=340, decoder=name).waveforms("train"))
    np.testing.assert_array_equal(ours, stack(Recordings.open(speech, samples=340).waveforms("train")))


def test_defaults(speech, mixed):
    recordings = Recordings.open(str(speech))
    assert (recordings.sample_rate, recordings.samples) == (8000, 8064)
    assert recordings.summary()["examples"] == {"train": 20, "validation": 10, "test": 10}
    assert recordings.summary()["padded"] == 40
    assert Recordings.open(speech, duration=0.25).samples == 2000
    assert Recordings.open(speech, duration=0.25, samples=99).samples == 99
    assert Recordings.open(speech, sample_rate=16000).samples == 16128
    # One long recording in eleven is no rounding error: it is cut up.
    assert Recordings.open(mixed).summary()["chunked"] == 1
    assert Recordings.open(mixed, long="crop").summary()["cropped"] == 1


def test_a_folder_its_manifest_and_its_file_are_the_same(speech, tmp_path):
    manifest = scan(speech)
    manifest.write(tmp_path / "m.jsonl")
    first, *others = [Recordings.open(source) for source in (speech, manifest, tmp_path / "m.jsonl")]
    for other in (*others, Recordings.scan(speech)):
        assert other.fingerprint == first.fingerprint
        np.testing.assert_array_equal(stack(other.waveforms("test")), stack(first.waveforms("test")))


def test_examples_say_what_the_rows_are(speech):
    examples = Recordings.open(speech).examples("test")
    assert [(e.path, e.label, e.speaker, e.index) for e in examples[:2]] == [
        ("0_theo_0.wav", "0", "theo", 0),
        ("0_theo_1.wav", "0", "theo", 1),
    ]


def test_the_fingerprint_follows_data_and_cutting(speech, mixed):
    prints = {
        Recordings.open(source, **options).fingerprint
        for source, options in [
            (speech, {}),
            (speech, {"samples": 100}),
            (speech, {"split": "hash"}),
            (speech, {"sample_rate": 16000, "samples": 8064}),
            (speech, {"samples": 100, "long": "crop"}),
            (mixed, {}),
            ("toy:harmonic?size=10", {}),
            ("toy:harmonic?size=11", {}),
        ]
    }
    assert len(prints) == 8


def test_no_piece_crosses_a_split(tmp_path):
    for seed in range(40):
        soundfile.write(tmp_path / f"{seed}.wav", np.full(1000, (seed + 1) / 100), 8000)
    recordings = Recordings.open(tmp_path, samples=200, overlap=0.75)
    sources = {split: set(np.rint(stack(recordings.waveforms(split)).ravel() * 100)) for split in SPLITS}
    assert all(sources.values())
    assert sum(map(len, sources.values())) == 40
    assert sum(len(recordings.examples(split)) for split in SPLITS) == 40 * 17


@pytest.mark.parametrize("overlap", [0, 0.3, 0.9])
@pytest.mark.parametrize("length", [99, 100, 101, 1234])
def test_chunks_cover_the_whole_recording(tmp_path, length, overlap):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", noise(ord(name), length), 8000)
    recordings = Recordings.open(tmp_path, samples=100, long="chunk", overlap=overlap, split="hash")
    starts = [example.start for example in recordings.examples("train")]
    covered = {sample for start in starts for sample in range(start, start + 100)}
    assert covered == set(range(max(length, 100)))
    assert starts == sorted(set(starts))


class Frames:
    """A stand-in for a representation: frames of 10 samples, and a count of the rows it was given."""

    sample_rate = 8000

    def __init__(self):
        self.rows = tf.Variable(0, dtype=tf.int64)
        self.gain = tf.Variable(1.0)

    def __call__(self, waveform):
        self.rows.assign_add(tf.shape(waveform, tf.int64)[0])
        return self.gain * tf.reshape(waveform, (-1, 10, self.feature_shape(340)[1], 1))

    def feature_shape(self, samples):
        return 10, samples // 10, 1

    def get_config(self):
        return {}

    def get_weights(self):
        return [self.gain.numpy()]


@pytest.mark.parametrize("cache_bytes", [1 << 30, 20 * 340 * 4, 0])
@pytest.mark.parametrize("kind", ["waveforms", "features"])
def test_order_is_a_function_of_seed_and_epoch(speech, kind, cache_bytes):
    recordings = Recordings.open(speech, samples=340, cache_bytes=cache_bytes)
    frames = Frames()

    def epochs(first, count, **options):
        arguments = ("train", frames) if kind == "features" else ("train",)
        dataset = getattr(recordings, kind)(*arguments, 8, first_epoch=first, **options)
        batches = [batch.numpy().reshape(len(batch), -1) for batch in dataset.take(3 * count)]
        assert [len(batch) for batch in batches] == [8, 8, 4] * count
        return np.concatenate(batches).reshape(count, 20, 340)

    plain = stack(recordings.waveforms("train"))
    through = epochs(0, 4, shuffle=True, seed=7)
    for epoch in through:
        assert sorted(map(tuple, epoch)) == sorted(map(tuple, plain))
    assert not np.array_equal(through[0], through[1])
    np.testing.assert_array_equal(epochs(2, 2, shuffle=True, seed=7), through[2:])
    assert not np.array_equal(epochs(0, 1, shuffle=True, seed=8)[0], through[0])
    np.testing.assert_array_equal(epochs(3, 1)[0], plain)
    assert recordings.steps("train", 8) == 3


def test_one_pass_shuffled_is_repeatable_and_then_different(speech):
    recordings = Recordings.open(speech, samples=340)
    dataset = recordings.waveforms("train", 8, shuffle=True, seed=1)
    first, second = stack(dataset), stack(dataset)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))
    np.testing.assert_array_equal(stack(recordings.waveforms("train", 8, shuffle=True, seed=1)), first)


def test_a_shuffled_pass_does_not_depend_on_the_global_seed(speech):
    recordings = Recordings.open(speech, samples=340)
    orders = []
    for seed in (None, 5, 6):
        if seed is not None:
            tf.random.set_seed(seed)
        batches = recordings.waveforms("train", 8, shuffle=True, seed=3, numbered=True)
        assert batches.cardinality() == 3
        orders.append([np.concatenate([np.asarray(rows) for _, rows, _ in batches]).tolist() for _ in range(2)])
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == list(range(20))


def test_features_are_computed_once_and_again_when_the_representation_changes(speech):
    recordings, frames = Recordings.open(speech, samples=340), Frames()
    first = stack(recordings.features("train", frames))
    assert first.shape == (20, 10, 34, 1)
    np.testing.assert_array_equal(stack(recordings.features("train", frames)), first)
    assert frames.rows == 20
    frames.gain.assign(2.0)
    np.testing.assert_array_equal(stack(recordings.features("train", frames)), 2 * first)
    assert frames.rows == 40
    frames.sample_rate = 16000
    with pytest.raises(InputError, match="open them with sample_rate=16000"):
        recordings.features("train", frames)


def test_memory_stays_below_the_limit(speech):
    limit = 20 * 340 * 4
    recordings, frames = Recordings.open(speech, samples=340, cache_bytes=limit), Frames()
    for _ in range(2):
        stack(recordings.waveforms("train"))
        stack(recordings.features("train", frames))
        stack(recordings.waveforms("test"))
    assert sum(array.shape.num_elements() * 4 for array in recordings._cache.values()) == limit
    assert frames.rows == 40  # no room was left for features


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_files_that_changed_since_the_scan_are_an_error(tmp_path, cache_bytes):
    recordings = Recordings.open(speak(tmp_path / "a"), cache_bytes=cache_bytes)
    soundfile.write(tmp_path / "a" / "0_theo_0.wav", noise(77, 300), 8000)
    with pytest.raises(InputError, match="0_theo_0.wav changed since the scan"):
        recordings.waveforms("test")
    (tmp_path / "a" / "0_theo_7.wav").unlink()
    with pytest.raises(InputError, match="0_theo_7.wav vanished since the scan"):
        recordings.waveforms("validation")
    assert stack(recordings.waveforms("train")).shape == (20, 8064)


def test_what_cannot_be_opened_is_said(speech, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Recordings.open(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no audio"):
        Recordings.open(tmp_path)
    with pytest.raises(InputError, match="is one recording; expected a folder"):
        Recordings.open(speech / "0_theo_0.wav")
    with pytest.raises(InputError, match="is not a folder"):
        Recordings.scan("toy:harmonic")
    with pytest.raises(InputError, match="there is no toy set"):
        Recordings.open("toy:organ")
    with pytest.raises(InputError, match="split by 'hash' only"):
        Recordings.open("toy:harmonic", split="speaker")
    for options, reason in [
        ({"duration": 0}, "at least one sample"),
        ({"samples": -3}, "at least one sample"),
        ({"sample_rate": 0}, "sample_rate must be positive"),
        ({"overlap": 1}, "overlap must be"),
        ({"long": "drop"}, "long must be"),
        ({"split": "random"}, "split must be one of"),
        ({"decoder": "ffmpeg"}, "not available"),
    ]:
        with pytest.raises(InputError, match=reason):
            Recordings.open(speech, **options)
    recordings = Recordings.open(speech)
    with pytest.raises(InputError, match="received 'dev'"):
        recordings.waveforms("dev")
    with pytest.raises(InputError, match="batch_size"):
        recordings.waveforms("test", 0)
    with pytest.raises(InputError, match="no known factors"):
        recordings.factors("test")


def test_an_empty_split_is_an_error_when_asked_for(tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", noise(ord(name), 100), 8000)
    recordings = Recordings.open(tmp_path, samples=100)
    assert stack(recordings.waveforms("train")).shape == stack(recordings.waveforms("validation")).shape == (1, 100)
    with pytest.raises(InputError, match=r"the test split is empty \(2 recordings"):
        recordings.waveforms("test")


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_a_toy_set_is_like_recordings(cache_bytes):
    recordings = Recordings.open("toy:harmonic?size=200", samples=640, cache_bytes=cache_bytes)
    assert (recordings.sample_rate, recordings.samples, recordings.manifest) == (8000, 640, None)
    factors = {split: recordings.factors(split) for split in SPLITS}
    assert np.unique(np.concatenate(list(factors.values()))).size == 200
    assert recordings.factor_names == ("richness",)
    waveforms = stack(recordings.waveforms("train", 7))
    assert waveforms.shape == (len(recordings.examples("train")), 640)
    # Power grows with richness: the rows and the factors are in the same order.
    assert scipy.stats.spearmanr(factors["train"][:, 0], waveforms.var(axis=1)).statistic > 0.9
    assert recordings.examples("train")[3].label == f"{factors['train'][3, 0]:.4f}"


@pytest.mark.data
def test_real_speech():
    if "SPECTROVAE_DATA" not in os.environ:
        pytest.skip("SPECTROVAE_DATA does not name the recordings")
    folder = Path(os.environ["SPECTROVAE_DATA"]) / "fsdd"
    recordings = Recordings.open(folder)
    assert recordings.samples == 63 * 128
    assert {split: len(recordings.examples(split)) for split in SPLITS} == dict(zip(SPLITS, (2400, 300, 300)))
    waveforms = stack(recordings.waveforms("test", 64))
    assert waveforms.shape == (300, 8064)
    for row in range(0, 300, 30):
        np.testing.assert_array_equal(waveforms[row], expected(folder, recordings.examples("test")[row], 8064))


@pytest.mark.data
def test_real_music_is_cut_into_pieces():
    if "SPECTROVAE_DATA" not in os.environ:
        pytest.skip("SPECTROVAE_DATA does not name the recordings")
    recordings = Recordings.open(Path(os.environ["SPECTROVAE_DATA"]) / "music", duration=2.0, sample_rate=22050)
    assert all(recordings.examples(split) for split in SPLITS)
    assert np.isfinite(stack(recordings.waveforms("validation"))).all()
