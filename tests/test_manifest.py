"""Every file accounted for; splits that leak nothing and stay where they are."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrovae import cli
from spectrovae.data import Recordings
from spectrovae.data import manifest as manifests
from spectrovae.data.manifest import Manifest, Record
from spectrovae.data.scan import scan
from spectrovae.data.splits import split_by_hash
from spectrovae.errors import OF_THE_PROCESS, InputError


def noise(seed, samples=400, level=0.3):
    return np.random.default_rng(seed).uniform(-level, level, samples)


def fill(folder, names, rate=8000):
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(seed), rate)


def record(name, content=None, **fields):
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    return Record(path=name, bytes=1, accepted=True, sha256=digest, **fields)


def made_of(*records):
    return Manifest(Path(), tuple(records))


@pytest.fixture
def mixed(tmp_path):
    """A folder with one of everything."""
    folder = tmp_path / "mixed"
    fill(folder, ["3_theo_7.wav", "birds/wren/a.flac", "loose.ogg", "birds/b.mp3"])
    soundfile.write(folder / "stereo.wav", np.stack([noise(9), noise(10)], 1), 44100, subtype="PCM_24")
    soundfile.write(folder / "float.wav", noise(11) * 5, 16000, subtype="FLOAT")
    soundfile.write(folder / "silence.wav", np.zeros(300), 8000)
    soundfile.write(folder / "clipped.wav", np.clip(noise(12, level=3), -1, 1), 8000)
    soundfile.write(folder / "one.wav", [0.25], 8000)
    soundfile.write(folder / "none.wav", [], 8000)
    soundfile.write(folder / "nan.wav", [0.1, np.nan, 0.2], 8000, subtype="FLOAT")
    (folder / "zero.wav").write_bytes(b"")
    (folder / "notes.wav").write_text("not a recording")
    (folder / "cut.wav").write_bytes((folder / "3_theo_7.wav").read_bytes()[:-100])
    (folder / "._3_theo_7.wav").write_bytes(b"resource fork")
    (folder / "README.md").write_text("hello")
    return folder


def test_every_file_is_accounted_for(mixed):
    found = scan(mixed)
    reasons = {record.path: record.reason for record in found.rejected}
    assert [record.path for record in found.accepted] == [
        "3_theo_7.wav", "birds/b.mp3", "birds/wren/a.flac", "clipped.wav", "cut.wav", "float.wav", "loose.ogg",
        "one.wav", "silence.wav", "stereo.wav",
    ]  # fmt: skip
    assert list(reasons) == ["nan.wav", "none.wav", "notes.wav", "zero.wav"]
    assert found.summary()["notes"] == {"cut.wav": "cut short or damaged, 87.5 % of it is there"}
    assert found.endings == {"hidden": 1, ".md": 1}
    assert "NaN" in reasons["nan.wav"]
    assert "no samples" in reasons["none.wav"]
    assert "not readable audio" in reasons["notes.wav"]
    assert reasons["zero.wav"] == "is empty (0 bytes)"
    assert found.ignored == 2
    summary = found.summary()
    assert (summary["accepted"], summary["rejected"], summary["silent"], summary["clipped"]) == (10, 4, 1, 2)
    assert summary["sample_rates"] == {"16000": 1, "44100": 1, "8000": 8}
    assert json.loads(json.dumps(summary)) == summary


def test_records_hold_what_the_files_hold(mixed):
    records = {record.path: record for record in scan(mixed).records}
    digit, stereo = records["3_theo_7.wav"], records["stereo.wav"]
    assert (digit.label, digit.speaker, digit.index) == ("3", "theo", 7)
    assert digit.sha256 == hashlib.sha256((mixed / "3_theo_7.wav").read_bytes()).hexdigest()
    assert (digit.sample_rate, digit.channels, digit.samples, digit.duration) == (8000, 1, 400, 0.05)
    assert digit.peak == pytest.approx(np.abs(soundfile.read(mixed / "3_theo_7.wav")[0]).max(), abs=1e-6)
    assert (stereo.sample_rate, stereo.channels, stereo.subtype) == (44100, 2, "PCM_24")
    assert (records["birds/wren/a.flac"].label, records["birds/b.mp3"].label) == ("wren", "birds")
    assert (records["loose.ogg"].label, records["loose.ogg"].speaker) == (None, None)
    assert records["silence.wav"].silent
    assert records["silence.wav"].accepted
    assert records["clipped.wav"].clipped
    assert records["float.wav"].peak > 1
    assert records["one.wav"].samples == 1
    assert records["nan.wav"].nan
    assert not digit.silent
    assert not digit.clipped
    assert not digit.nan


def test_names_are_read_by_a_pattern(tmp_path):
    fill(tmp_path, ["ann/happy-1.wav", "bob/sad-2.wav"])
    found = scan(tmp_path, pattern=r"(?P<speaker>\w+)/(?P<label>[a-z]+)-\d")
    assert [(record.speaker, record.label) for record in found.records] == [("ann", "happy"), ("bob", "sad")]
    with pytest.raises(InputError, match="not a regular expression"):
        scan(tmp_path, pattern="(?P<label>")
    with pytest.raises(InputError, match="names no group"):
        scan(tmp_path, pattern=r"\w+")


def test_folders_without_recordings_are_refused_with_the_reasons(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        scan(tmp_path / "absent")
    with pytest.raises(InputError, match="does not exist"):
        Recordings.open(tmp_path / ("a" * 300))
    (tmp_path / "notes.wav").write_text("not a recording")
    with pytest.raises(InputError, match="is not a folder"):
        scan(tmp_path / "notes.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"holds no audio .* 1 other files were ignored"):
        scan(tmp_path / "empty")
    (tmp_path / "zero.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"notes.wav: is not readable audio.*; zero.wav: is empty"):
        scan(tmp_path)


def test_a_written_manifest_reads_back_and_may_move_with_its_folder(tmp_path, mixed):
    found = scan(mixed)
    assert manifests.Manifest.read(write(found, mixed / "manifest.jsonl")) == found
    (tmp_path / "link.jsonl").symlink_to(mixed / "manifest.jsonl")
    assert Manifest.read(tmp_path / "link.jsonl") == found
    shutil.move(mixed, tmp_path / "moved")
    moved = Manifest.read(tmp_path / "moved" / "manifest.jsonl")
    assert moved.records == found.records
    assert moved.fingerprint == found.fingerprint
    moved.check()
    elsewhere = write(moved, tmp_path / "lists" / "m.jsonl")
    assert json.loads(elsewhere.read_text().splitlines()[0])["root"] == str((tmp_path / "moved").resolve())
    assert Manifest.read(elsewhere).records == found.records
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(InputError, match="does not exist; scan"):
        Manifest.read(elsewhere)


def write(found, path):
    found.write(path)
    return path


def test_damaged_or_newer_manifests_are_refused(tmp_path, mixed):
    path = write(scan(mixed), tmp_path / "m.jsonl")
    content = path.read_text()
    for damaged in (content[:-40], "{" + content, "", "[]\n", '{"format": "other"}\n', "\x00\x01"):
        path.write_text(damaged)
        with pytest.raises(InputError, match="not a manifest, or is damaged"):
            Manifest.read(path)
    path.write_text(content.replace('"version": 2', '"version": 99', 1))
    with pytest.raises(InputError, match="version 99; this spectrovae reads up to 2"):
        Manifest.read(path)
    with pytest.raises(InputError, match="cannot read"):
        Manifest.read(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="cannot write"):
        scan(mixed).write(path / "below-a-file" / "m.jsonl")


VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -1e9, "", "x", "../x.wav", "/etc/passwd", "a\0b",
    "\ud800", "0" * 64, [], [1], ["a"], {}, {"a": 1}, {"a": "b"}, float("nan"), float("inf"),
]  # fmt: skip


def test_every_mutation_of_a_manifest_is_read_or_one_line(tmp_path, mixed):
    path = write(scan(mixed), tmp_path / "m.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    places = [(row, name) for row in (0, 1, 5) for name in lines[row]]
    refused = []
    for row, name in places:
        for value in (*VALUES, KeyError):
            changed = [dict(line) for line in lines]
            if value is KeyError:
                del changed[row][name]
            else:
                changed[row][name] = value
            path.write_text("\n".join(map(json.dumps, changed)))
            try:
                found = Manifest.read(path)
                found.splits("hash")
                json.dumps(found.summary())
                assert found.accepted
            except InputError as error:
                refused.append(str(error))
    assert not any("\n" in message or len(message) > 400 for message in refused)
    assert len(refused) > len(places) * len(VALUES) // 2
    for damaged in ("null", "3", '"a"', "[]", '{"a": 1}', "[[[]]]" * 3, "[" * 100_000):
        path.write_text(json.dumps(lines[0]) + "\n" + damaged)
        with pytest.raises(InputError, match=r"damaged|not a manifest"):
            Manifest.read(path)
    path.write_text("\n".join(map(json.dumps, [*lines, lines[3]])))
    with pytest.raises(InputError, match=f"{re.escape(lines[3]['path'])} has more than one line"):
        Manifest.read(path)
    path.write_text(json.dumps(lines[0]))
    with pytest.raises(InputError, match="lists no recording that can be used; scan its folder again"):
        Manifest.read(path)


def test_manifests_of_version_1_are_read(tmp_path, mixed):
    found = scan(mixed)
    path = write(found, mixed / "m.jsonl")
    header, *lines = map(json.loads, path.read_text().splitlines())
    for name in ("endings", "unreadable"):
        del header[name]
    new = {"note", "loud", "dc", "checksum", "split"}
    older = [{name: value for name, value in line.items() if name not in new} for line in lines]
    path.write_text("\n".join(map(json.dumps, [header | {"version": 1}, *older])))
    read = Manifest.read(path)
    assert read.fingerprint == found.fingerprint
    assert [record.path for record in read.accepted] == [record.path for record in found.accepted]
    read.check()


def test_files_that_changed_or_vanished_are_noticed(mixed):
    found = scan(mixed)
    found.check()
    path = mixed / "one.wav"
    soundfile.write(path, [0.5], 8000)  # as long as before
    with pytest.raises(InputError, match="one.wav changed since the scan"):
        found.check()
    os.utime(path, (1, 1))
    found.check()
    with pytest.raises(InputError, match="one.wav changed since the scan"):
        found.check(thorough=True)
    path.unlink()
    with pytest.raises(InputError, match="one.wav vanished since the scan"):
        found.check()


def test_the_fingerprint_follows_the_data(mixed):
    before = scan(mixed).fingerprint
    assert scan(mixed).fingerprint == before
    soundfile.write(mixed / "one.wav", [0.5], 8000)
    assert scan(mixed).fingerprint != before


def where(splits):
    return {record.path: split for split, records in splits.items() for record in records}


def test_adding_files_moves_no_other_file():
    records = [record(f"{number}.wav") for number in range(1000)]
    few, many = made_of(*records[:300]).splits("hash"), made_of(*records).splits("hash")
    assert where(few).items() <= where(many).items()
    assert len(where(many)) == 1000
    for split, share in (("train", 800), ("validation", 100), ("test", 100)):
        assert abs(len(many[split]) - share) < 40


def test_copies_of_a_file_stay_together():
    chosen = where(made_of(*(record(f"{n}.wav", content=str(n // 2)) for n in range(400))).splits("hash"))
    assert all(chosen[f"{n}.wav"] == chosen[f"{n + 1}.wav"] for n in range(0, 400, 2))


def test_copies_in_another_format_stay_together(tmp_path):
    for number in range(40):
        for ending in (".wav", ".flac"):
            soundfile.write(tmp_path / f"{number:02}{ending}", np.int16(30000 * noise(number)), 8000)
    records = scan(tmp_path).accepted
    assert len({record.sha256 for record in records}) == 80
    assert scan(tmp_path).summary()["duplicates"] == 40
    chosen = where(made_of(*records).splits("hash"))
    assert all(chosen[f"{n:02}.wav"] == chosen[f"{n:02}.flac"] for n in range(40))
    assert len(set(chosen.values())) == 3


def test_a_speaker_is_in_one_split():
    people = [f"person{n}" for n in range(40)]
    records = [record(f"{who}-{n}.wav", speaker=who) for who in people for n in range(3)]
    splits = made_of(*records).splits("speaker")
    sets = [{record.speaker for record in records} for records in splits.values()]
    assert all(sets)
    assert sum(map(len, sets)) == 40
    with pytest.raises(InputError, match="nobody.wav has none: give a name pattern"):
        made_of(record("nobody.wav")).splits("speaker")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", range(1, 12))
def test_small_sets_fill_the_splits_they_can(count, seed):
    keys = [f"{seed}/{number}" for number in range(count)]
    chosen = split_by_hash(keys)
    assert set(chosen) == set(keys)
    expected = {1: {"train"}, 2: {"train", "validation"}}.get(count, {"train", "validation", "test"})
    assert set(chosen.values()) == expected
    assert split_by_hash(reversed(keys)) == chosen


def test_the_official_split_of_fsdd():
    records = [record(f"r/{digit}_theo_{take}.wav") for digit in range(10) for take in range(50)]
    splits = made_of(*records).splits()
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [400, 50, 50]
    assert {Path(record.path).stem.split("_")[2] for record in splits["test"]} == set("01234")
    assert {Path(record.path).stem.split("_")[2] for record in splits["validation"]} == set("56789")
    # One other name, or none for a split: the hash decides.
    other = made_of(*records, record("noise.wav"))
    assert where(other.splits()) == where(other.splits("hash"))
    with pytest.raises(InputError, match="noise.wav has none"):
        other.splits("fsdd")
    late = made_of(*(record(f"0_theo_{take}.wav") for take in range(10, 50)))
    assert where(late.splits()) == where(late.splits("hash"))
    with pytest.raises(InputError, match="received 'random'"):
        late.splits("random")


def test_rejected_files_are_in_no_split(mixed):
    assert set(where(scan(mixed).splits())) == {record.path for record in scan(mixed).accepted}


def test_channels_that_cancel_each_other_are_silent(tmp_path):
    sound = noise(0)
    soundfile.write(tmp_path / "a.wav", np.stack([sound, -sound], 1), 8000)
    soundfile.write(tmp_path / "b.wav", np.stack([sound, sound], 1), 8000)
    opposite, equal = scan(tmp_path).accepted
    assert (opposite.silent, equal.silent, equal.note) == (True, False, None)
    assert opposite.peak == equal.peak > 0.1
    assert opposite.note == "its channels cancel each other: their mean, which is trained on, is silent"


@pytest.mark.parametrize("number", OF_THE_PROCESS)
def test_what_the_process_lacks_rejects_no_file(number, mixed, monkeypatch, capsys):
    """Too many open files, or no memory: no recording is left out for it."""
    opened = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("a.flac"):
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError) as raised:
        scan(mixed)
    assert raised.value.errno == number
    assert cli.main(["data", "scan", str(mixed), "--out", str(mixed / "data.jsonl")]) == 1
    assert re.fullmatch(r"spectrovae: error: (too many files are open|out of memory); .*\n", capsys.readouterr().err)
    assert not (mixed / "data.jsonl").exists()


def test_links_to_folders_are_followed_once(tmp_path):
    fill(tmp_path / "real", ["a.wav"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "data")
    assert [record.path for record in scan(tmp_path / "data").records] == ["link/a.wav"]


def test_progress_is_told(mixed):
    seen = []
    scan(mixed, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 14) for n in range(1, 15)]


def test_records_are_plain_json(mixed):
    for found in scan(mixed).records:
        assert Record(**json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))) == found


@pytest.mark.data
def test_real_speech():
    if "SPECTROVAE_DATA" not in os.environ:
        pytest.skip("SPECTROVAE_DATA does not name the recordings")
    found = scan(Path(os.environ["SPECTROVAE_DATA"]) / "fsdd")
    assert (len(found.accepted), len(found.rejected)) == (3000, 0)
    splits = found.splits()
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [2400, 300, 300]
    assert set(found.summary()["speakers"].values()) == {500}
    assert sum(len(records) for records in found.splits("speaker").values()) == 3000
