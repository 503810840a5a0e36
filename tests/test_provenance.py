"""A bundle remembers its data: it is measured on what it has not seen, or says so."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import soundfile

from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.data import Recordings, recordings_for
from spectrovae.errors import InputError
from spectrovae.evaluation.judges import Judge

SPLITS = ("train", "validation", "test")
FIT = ["--preset", "tiny", "--network", "dense", "--hidden", "8", "--latent-dim", "2", "--n-fft", "128",
       "--duration", "0.1", "--epochs", "1"]  # fmt: skip
COMPARE = ["--samples", "0", "--limit", "3", "--resamples", "10"]


def speak(folder, pattern="{digit}_{name}_{take}"):
    """Three words of six speakers, four takes each, 0.1 s, named as FSDD names its files, which has its own split."""
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(800) / 8000
    for place, name in enumerate(("ann", "bob", "cas", "dan", "eve", "fay")):
        for digit in range(3):
            for take in (1, 6, 12, 13):
                random = np.random.default_rng([place, digit, take])
                sound = 0.3 * np.sin(2 * np.pi * 200 * (digit + 1) * time) + 0.02 * random.standard_normal(800)
                soundfile.write(folder / f"{pattern.format(digit=digit, name=name, take=take)}.wav", sound, 8000)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return speak(tmp_path_factory.mktemp("data") / "speech")


@pytest.fixture(scope="module")
def bundle(data):
    """Fitted with speakers kept apart; "auto" would be the split of FSDD."""
    path = data.parent / "vae"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["fit", "vae", "--data", str(data), "--split", "speaker", "--out", str(path), *FIT]) == 0
    (data.parent / "said.txt").write_text(said.getvalue())
    return path


@pytest.fixture(scope="module")
def codec(bundle):
    return Codec.load(bundle)


def run(capsys, *arguments):
    """Exit code, JSON and standard error of a command."""
    code = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else None, err


def seen(codec, recordings, split="test"):
    (row,) = recordings.measured(split, [codec])["models"]
    return row["train"], row["validation"]


def test_a_bundle_remembers_rule_and_splits(codec, data):
    own = Recordings.open(data, samples=codec.segment_samples, split="speaker")
    assert codec.data["fingerprint"] == own.fingerprint
    assert codec.data["rule"] == "speaker"
    assert codec.data["open"] == own.get_config()
    by_content = {record.path: record.content[:16] for record in own.manifest.accepted}
    for split in SPLITS:
        assert codec.data["splits"][split] == sorted(by_content[example.path] for example in own.examples(split))


@pytest.mark.parametrize("ending", [".flac", ".aiff", ".caf"])
def test_copies_in_another_lossless_format_were_seen(ending, codec, data, tmp_path):
    for file in data.iterdir():
        sound, rate = soundfile.read(file, dtype="int16")
        soundfile.write(tmp_path / f"{file.stem}{ending}", sound, rate)
    other = Recordings.open(tmp_path, samples=codec.segment_samples, split="fsdd", sample_rate=8000)
    expected = Recordings.open(data, samples=codec.segment_samples, split="fsdd")
    expected.allow_seen = other.allow_seen = True
    assert seen(codec, other) == seen(codec, expected)
    assert sum(seen(codec, other)) > 0
    other.allow_seen = False
    with pytest.raises(InputError, match="learned from clips measured here"):
        other.measured("test", [codec])


def test_bundles_that_remember_hashes_of_files_are_compared_by_them(codec, data):
    by_content = {record.content[:16]: record.sha256[:16] for record in Recordings.open(data).manifest.accepted}
    splits = {split: [by_content[own] for own in codec.data["splits"][split]] for split in SPLITS}
    older = codec.replace(data=codec.data | {"splits": splits, "fingerprint": "of a folder that was larger"})
    other = Recordings.open(data, samples=codec.segment_samples, split="fsdd")
    other.allow_seen = True
    assert seen(older, other) == seen(codec, other)


def test_a_plain_compare_uses_the_split_of_the_fit(bundle, data, tmp_path, capsys):
    code, result, _ = run(capsys, "compare", bundle, "--out", tmp_path / "c", *COMPARE)
    assert code == 0
    assert result["data"]["rule"] == "speaker"
    assert result["data"]["source"] == str(data)
    assert result["data"]["models"] == [{"name": "vae", "same_data": True, "train": 0, "validation": 0}]


def test_another_rule_is_refused_and_with_leave_stated_everywhere(bundle, codec, data, tmp_path, capsys):
    other = ["compare", bundle, "--data", data, "--split-rule", "fsdd", *COMPARE]
    code, _, error = run(capsys, *other, "--out", tmp_path / "c")
    assert code == 2
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()
    fsdd = {e.path for e in Recordings.open(data, split="fsdd").examples("test")}
    own = {s: {e.path for e in Recordings.open(data, split="speaker").examples(s)} for s in SPLITS}
    counts = [len(fsdd & own["train"]), len(fsdd & own["validation"])]
    said = f"of {len(fsdd)} test clips, {counts[0]} in its train split and {counts[1]} in its validation split"
    assert said in error
    assert "--allow-seen" in error

    code, result, error = run(capsys, *other, "--out", tmp_path / "c", "--allow-seen")
    assert code == 0
    assert said in error
    kept = json.loads((tmp_path / "c" / "compare.json").read_text())["data"]
    assert kept == result["data"]
    assert [kept["models"][0][split] for split in ("train", "validation")] == counts
    assert said in (tmp_path / "c" / "report.html").read_text()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_that_was_chosen_is_measured_and_stated(codec, data, split):
    recordings = recordings_for([codec])
    count = len(recordings.examples(split))
    assert seen(codec, recordings, split) == ((count, 0) if split == "train" else (0, count))
    notes = recordings.measured(split, [codec])["notes"]
    assert f"{count} in its {split} split: the split that was chosen." in notes[-1]


def test_validation_clips_that_were_trained_on_are_refused_too(codec, data):
    recordings = recordings_for([codec], data, split="fsdd")
    own = Recordings.open(data, split="speaker")
    trained, validated = ({e.path for e in own.examples(split)} for split in ("train", "validation"))
    paths = {e.path for e in recordings.examples("validation")}
    assert seen(codec, recordings, "train")  # these are what was chosen
    with pytest.raises(InputError, match=rf"{len(paths & trained)} in its train split.*on its own validation split"):
        recordings.measured("validation", [codec])
    recordings.allow_seen = True
    assert seen(codec, recordings, "validation") == (len(paths & trained), len(paths & validated))
    assert "figures are too good" in recordings.measured("validation", [codec])["notes"][-1]


def test_bundles_of_one_name_are_told_apart(codec, data):
    second = codec.replace(data=Recordings.open(data, samples=codec.segment_samples, split="fsdd").provenance())
    with pytest.raises(InputError, match=r"^vae \(2\) learned from clips"):
        recordings_for([codec]).measured("test", [codec, second])


def changed(data, folder, change):
    """A copy of the data to which something was done."""
    shutil.copytree(data, folder)
    change(folder)
    return folder


def rename(folder):
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"take{number}.wav")


def into_folders(folder):
    for path in sorted(folder.iterdir()):
        (folder / path.stem[0]).mkdir(exist_ok=True)
        path.rename(folder / path.stem[0] / path.name)


@pytest.mark.parametrize("change", [rename, into_folders])
def test_contents_count_and_not_names(codec, data, tmp_path, change):
    folder = changed(data, tmp_path / "copy", change)
    recordings = recordings_for([codec], folder, split="hash", allow_seen=True)
    first = recordings.manifest.accepted
    known = {content: split for split in SPLITS for content in codec.data["splits"][split]}
    by_path = {record.path: known[record.content[:16]] for record in first}
    found = [by_path[example.path] for example in recordings.examples("test")]
    assert seen(codec, recordings) == (found.count("train"), found.count("validation"))
    recordings.allow_seen = False
    with pytest.raises(InputError, match="figures would be too good"):
        recordings.measured("test", [codec])


def test_moved_data_are_the_same(codec, data, tmp_path):
    shutil.copytree(data, tmp_path / "elsewhere")
    recordings = recordings_for([codec], tmp_path / "elsewhere")
    assert recordings.rule == "speaker"
    assert recordings.fingerprint == codec.data["fingerprint"]
    assert recordings.measured("test", [codec])["models"][0]["same_data"]
    gone = codec.replace(data=codec.data | {"open": codec.data["open"] | {"source": str(tmp_path / "gone")}})
    with pytest.raises(InputError, match=rf"vae was trained on {tmp_path}/gone, which is no longer there.*--data"):
        recordings_for([gone])


def test_more_recordings_of_the_same_speakers_move_none(codec, data, tmp_path):
    def more(folder):
        soundfile.write(folder / "0_ann_50.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 800), 8000)

    recordings = recordings_for([codec], changed(data, tmp_path / "more", more))
    assert seen(codec, recordings) == (0, 0)
    assert "other data" in " ".join(recordings.measured("test", [codec])["notes"])


def test_foreign_data_are_fine(codec, tmp_path):
    for number in range(12):
        sound = np.random.default_rng(number).uniform(-0.1, 0.1, 800)
        soundfile.write(tmp_path / f"{number}_zoe_{number}.wav" if number < 10 else tmp_path / f"1_yan_{number}.wav",
                        sound, 8000)  # fmt: skip
    assert seen(codec, recordings_for([codec], tmp_path, split="hash")) == (0, 0)


def test_a_rule_that_does_not_suit_other_data_says_whose_it_is(codec, tmp_path):
    soundfile.write(tmp_path / "plain.wav", np.full(800, 0.1), 8000)
    with pytest.raises(InputError, match=r"the speaker split needs speakers.*of the fit of vae: .*split 'speaker'"):
        recordings_for([codec], tmp_path)


def test_several_bundles_take_the_data_of_the_first_and_count_for_all(codec, data):
    other = Recordings.open(data, samples=codec.segment_samples, split="fsdd")
    second = codec.replace(name="second", data=other.provenance())
    recordings = recordings_for([codec, second])
    assert recordings.rule == "speaker"
    with pytest.raises(InputError, match="second learned from clips"):
        recordings.measured("test", [codec, second])
    recordings.allow_seen = True
    rows = {row["name"]: row for row in recordings.measured("test", [codec, second])["models"]}
    assert (rows["vae"]["train"], rows["vae"]["validation"]) == (0, 0)
    assert rows["second"]["train"] + rows["second"]["validation"] > 0


def test_judges_and_priors_count_too(codec, data):
    recordings = recordings_for([codec])
    memory = Recordings.open(data, split="fsdd").provenance()
    judge = Judge.__new__(Judge)
    judge.name, judge.info = "ears", {"data": memory}
    with pytest.raises(InputError, match="judge ears learned from clips"):
        recordings.measured("test", [codec], [judge])
    prior = codec.replace(data=codec.data | {"prior": memory})
    with pytest.raises(InputError, match="the prior of vae learned from clips"):
        recordings.measured("test", [prior])
    for damage in (5, {"fingerprint": 1, "splits": {"train": [5]}}, memory | {"fingerprint": 1, "splits": ["train"]}):
        judge.info = {"data": damage}
        with pytest.raises(InputError, match="is damaged"):
            recordings.measured("test", [codec], [judge])
    judge.info = {"data": {"source": "x", "split": "auto"}}  # as judges kept it before
    assert "cannot be checked" in recordings.measured("test", [codec], [judge])["notes"][-1]


def test_an_old_bundle_takes_what_its_run_remembers(bundle, data, tmp_path, capsys):
    from spectrovae.commands.options import open_codec

    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    codec = Codec.load(old)
    codec.replace(data=None).save(old)
    assert Codec.load(old).data is None
    opened = open_codec(str(old))
    recordings = recordings_for([opened])
    assert recordings.rule == "speaker"
    assert seen(opened, recordings) == (0, 0)  # equal fingerprints, equal splits
    other = recordings_for([opened], data, split="hash")
    assert "cannot be checked" in " ".join(other.measured("test", [opened])["notes"])
    shutil.rmtree(old / "run")
    code, _, error = run(capsys, "diagnose", old)
    assert code == 2
    assert "does not say which recordings it was trained on; name them with --data" in error


def test_stretches_of_one_recording_are_told_apart(codec, tmp_path):
    soundfile.write(tmp_path / "take.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 24_000), 8000)
    own = Recordings.open(tmp_path, samples=codec.segment_samples)
    assert own.rule == "time"
    timed = codec.replace(data=own.provenance())
    assert seen(timed, own) == (0, 0)
    assert seen(timed, own, "train") == (len(own.examples("train")), 0)
    # The same take under a rule that trains on all of it.
    everything = Recordings.open(tmp_path, samples=codec.segment_samples, split="hash")
    begin, end = (float(t) for t in own.provenance()["splits"]["test"][0].partition("@")[2].split("-"))
    clips = everything.stretches("train")
    row = everything.measured("train", [timed])["models"][0]
    validation = own.provenance()["splits"]["validation"][0].partition("@")[2].split("-")
    expected = sum(clip.begin < float(validation[1]) and float(validation[0]) < clip.end for clip in clips)
    assert row["validation"] == expected
    assert row["train"] < sum(clip.end <= begin or clip.begin >= end for clip in clips)


@pytest.mark.parametrize("samples", [790, 800, 815])
def test_examples_are_as_long_as_those_of_the_fit(codec, tmp_path, samples):
    soundfile.write(tmp_path / "take.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 24_000), 8000)
    own = Recordings.open(tmp_path, samples=samples)
    again = recordings_for([codec.replace(data=own.provenance())])
    same = codec.representation.feature_shape(samples) == codec.feature_shape
    assert again.samples == (samples if same else codec.segment_samples)
    assert (again.fingerprint == own.fingerprint) == same


def test_toy_sounds_are_told_apart_by_what_they_are(codec):
    def opened(name):
        return Recordings.open(name, sample_rate=8000, samples=800)

    own = opened("toy:harmonic?size=50")
    toy = codec.replace(data=own.provenance())
    assert seen(toy, own) == (0, 0)
    assert seen(toy, own, "train") == (len(own.examples("train")), 0)
    for other in ("toy:harmonic?size=51", "toy:harmonic?size=50&seed=1"):
        assert seen(toy, opened(other), "train") == (0, 0)


@pytest.mark.parametrize("table", ["t.csv", "../t.csv"])
def test_a_pattern_and_a_table_are_remembered(table, codec, tmp_path):
    folder = speak(tmp_path / "x" / "sounds", "{name}-{digit}-{take}")
    pattern = r"(?P<speaker>[a-z]+)-(?P<label>\d)-(?P<index>\d+)"
    rows = "".join(f"{path.name},w{path.stem.split('-')[1]}\n" for path in folder.iterdir())
    (folder / table).write_text("name,word\n" + rows)
    own = Recordings.open(folder, samples=800, pattern=pattern, labels=folder / table, split="speaker")
    model = codec.replace(data=own.provenance())
    shutil.move(tmp_path / "x", tmp_path / "y")
    moved = recordings_for([model], tmp_path / "y" / "sounds")
    assert moved.examples("train") == own.examples("train")
    assert {example.label for example in moved.examples("train")} == {"w0", "w1", "w2"}
    assert moved.get_config()["labels"] == str((tmp_path / "y" / "sounds" / table).resolve())


def test_a_fit_says_what_it_trains_on_before_anything_else(bundle, codec, data):
    lines = (data.parent / "said.txt").read_text().splitlines()
    own = Recordings.open(data, samples=codec.segment_samples, split="speaker")
    assert lines[:4] == [
        f"{data}: 72 recordings, 7.2 s",
        "examples of 0.1 s (800 samples at 8000 Hz)",
        f"split by speaker: {', '.join(f'{split} {len(own.examples(split))}' for split in SPLITS)}",
        "3 labels: 0 24; 1 24; 2 24",
    ]
    assert lines[4].startswith("6 speakers: ann 12; bob 12")
    assert "not in train: " in lines[4]
