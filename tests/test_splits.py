"""Which recordings train, validate and test: the rules, what "auto" recognises, and what is said of it."""

import hashlib

import numpy as np
import pytest
import soundfile

from spectrovae.data import Recordings
from spectrovae.data.manifest import Record
from spectrovae.data.splits import SPLIT_RULES, divide, split_in_time, split_named
from spectrovae.errors import InputError

SPLITS = ("train", "validation", "test")


def record(path, content=None, **fields):
    return Record(path, 1, True, sha256=hashlib.sha256((content or path).encode()).hexdigest(), **fields)


def where(division):
    return {record.path: split for split in SPLITS for record in division.records[split]}


def write(folder, lengths, rate=8000):
    for name, samples in lengths.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples), rate)
    return folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("train-clean-100", "train"), ("nsynth-valid", "validation"),
        ("val2017", "validation"), ("dev_set", "validation"), ("development", "validation"), ("TEST", "test"),
        ("eval", "test"), ("test-other", "test"), ("trainer", None), ("contest", None), ("value", None),
        ("train_test", None), ("robin", None), ("", None),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_named(name) == split


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"), ("train", "valid", "eval"), ("Training", "Validation", "Testing"),
        ("data/train", "data/dev", "data/test"), ("a/b/train-clean-100", "a/b/dev-clean", "a/b/test-clean"),
        ("fan/train", "fan/valid", "pump/test"),  # a split of each class
    ],
)  # fmt: skip
def test_folders_of_splits_are_recognised(names):
    records = [record(f"{name}/dog/{n}.wav") for name in names for n in range(10)]
    division = divide(records)
    assert division.rule == "folder"
    assert [len(division.records[split]) for split in SPLITS] == [10, 10, 10]
    assert all(where(division)[f"{name}/dog/3.wav"] == split for name, split in zip(names, SPLITS))
    assert not division.notes


@pytest.mark.parametrize(("present", "absent"), [("val", "test"), ("test", "validation")])
def test_a_split_without_a_folder_is_taken_from_train(present, absent):
    records = [record(f"train/{n}.wav") for n in range(200)] + [record(f"{present}/{n}.wav") for n in range(20)]
    division = divide(records)
    taken = {record.path for record in division.records[absent]}
    assert all(path.startswith("train/") for path in taken)
    assert 8 < len(taken) < 35  # a tenth of 200
    assert f"no recordings are named for {absent}" in division.notes[0]
    # The folder that is there stays as it is.
    assert len(division.records["validation" if absent == "test" else "test"]) == 20


@pytest.mark.parametrize(
    "paths",
    [
        ["train/a.wav", "train/b.wav", "loose.wav", "test/c.wav"],  # not all of them
        ["train/a.wav", "car/b.wav", "bird/c.wav"],  # a class of its own
        ["test/a.wav", "val/b.wav"],  # nothing to train on
        ["dog/train/a.wav", "cat/train/b.wav"],  # nothing to test on
    ],
)
def test_other_folders_are_no_splits(paths):
    assert divide([record(path) for path in paths]).rule == "hash"


def test_folders_that_look_like_splits_are_mentioned():
    division = divide([record(f"{name}/{n}.wav") for name in ("train", "test", "noise") for n in range(5)])
    assert "some folders are named train and test" in division.notes[0]
    with pytest.raises(InputError, match=r"needs folders train, val, test; noise/0.wav has none"):
        divide([record(f"{name}/{n}.wav") for name in ("train", "test", "noise") for n in range(5)], "folder")


@pytest.mark.parametrize("example", [1, 7, 100])
@pytest.mark.parametrize("count", [5, 6, 11, 20, 57.3, 1000])
def test_stretches_are_an_example_apart_and_one_long_at_least(example, count):
    length = int(count * example)
    spans = split_in_time(length, example)
    (first, train), (validation, end), (test, last) = (spans[split] for split in SPLITS)
    assert (first, last) == (0, length)
    assert validation - train == test - end == example
    assert min(train - first, end - validation, last - test) >= example
    held = (length - 2 * example) / 10
    assert end - validation == last - test == max(example, int(held))


@pytest.mark.parametrize(("length", "example"), [(0, 1), (4, 1), (499, 100), (1000, 0)])
def test_what_is_too_short_is_not_split_in_time(length, example):
    assert split_in_time(length, example) is None


def test_a_long_recording_is_split_in_time_without_overlap(tmp_path):
    recordings = Recordings.open(write(tmp_path, {"take.wav": 20_000}), samples=500)
    assert recordings.rule == "time"
    spans = split_in_time(20_000, 500)
    sound, _ = soundfile.read(tmp_path / "take.wav", dtype="float32")
    for split in SPLITS:
        begin, end = spans[split]
        starts = [example.start for example in recordings.examples(split)]
        assert starts[0] == begin
        assert starts[-1] + 500 == end
        assert all(begin <= start <= end - 500 for start in starts)
        cut = np.concatenate([np.asarray(batch) for batch in recordings.waveforms(split)])
        np.testing.assert_array_equal(cut, np.stack([sound[start : start + 500] for start in starts]))


def test_time_splits_are_the_same_whether_cached_or_sought(tmp_path):
    write(tmp_path, {"take.wav": 6_000, "short.wav": 700})
    for long in ("auto", "crop"):
        whole, sought = (
            Recordings.open(tmp_path, samples=500, long=long, split="time", cache_bytes=size) for size in (1 << 30, 0)
        )
        for split in SPLITS:
            held, read = (np.concatenate(list(r.waveforms(split).as_numpy_iterator())) for r in (whole, sought))
            np.testing.assert_array_equal(held, read)
    assert {example.path for example in whole.examples("test")} == {"take.wav"}
    assert "1 recording shorter than five examples" in whole.describe()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_long_recordings_fill_all_splits(tmp_path, count):
    recordings = Recordings.open(write(tmp_path, {f"take{n}.wav": 6000 for n in range(count)}), samples=500)
    assert recordings.rule == "time"
    assert all(recordings.examples(split) for split in SPLITS)


@pytest.mark.parametrize(
    ("lengths", "rule"),
    [
        ({"a.wav": 2400}, "hash"),  # not five examples
        ({"a.wav": 6000, "b.wav": 500}, "time"),  # of two, the long one is split
        ({"a.wav": 6000, "b.wav": 500, "c.wav": 500}, "hash"),
        ({f"{n}.wav": 6000 for n in range(5)}, "hash"),
    ],
)
def test_when_time_is_the_rule(tmp_path, lengths, rule):
    assert Recordings.open(write(tmp_path, lengths), samples=500).rule == rule


def test_one_short_recording_is_refused_in_one_line(tmp_path):
    recordings = Recordings.open(write(tmp_path, {"a.wav": 2400}), samples=500)
    with pytest.raises(InputError, match=r"the validation split is empty \(1 recordings.*shorter examples"):
        recordings.require("train", "validation")
    with pytest.raises(InputError, match=r"five examples at least; the longest one has 4.8"):
        Recordings.open(tmp_path, samples=500, split="time")


def test_background_noise_is_in_no_split():
    records = [record(f"{word}/{n}.wav") for word in ("yes", "no") for n in range(20)]
    noise = [record(f"_background_noise_/{n}.wav") for n in range(2)]
    division = divide([*noise, *records], "hash")
    assert where(division) == where(divide(records, "hash"))
    assert "2 recordings in _background_noise_ left out" in division.notes[0]


def test_copies_across_fixed_splits_are_mentioned():
    records = [record(f"train/{n}.wav", f"{n}") for n in range(9)]
    records += [record(f"test/{n}.wav", f"{n + 7}") for n in range(4)] + [record("val/0.wav", "other")]
    assert divide(records).notes == ["2 recordings of test with the content of one in train, under another name"]


def test_long_recordings_are_not_cropped_without_need(tmp_path):
    write(tmp_path, {f"{n}.wav": 400 for n in range(150)} | {"long.wav": 1600})
    recordings = Recordings.open(tmp_path, samples=400)
    assert recordings.summary()["cropped"] == 1  # 1200 of 61 600 samples are lost
    assert "1 cropped to their beginning, which loses 1.9% of the sound" in recordings.describe()
    write(tmp_path, {"long.wav": 16_000})
    assert Recordings.open(tmp_path, samples=400).summary()["chunked"] == 1  # it would be 20 %


def test_every_rule_is_known():
    with pytest.raises(InputError, match=rf"split must be one of {', '.join(SPLIT_RULES)}, received 'random'"):
        divide([record("a.wav")], "random")
    with pytest.raises(InputError, match="column 'split'"):
        divide([record("a.wav")], "table")


def test_the_command_line_knows_the_rules():
    from spectrovae import cli

    assert cli.SPLIT_RULES == SPLIT_RULES
