"""What compare says of sounds with labels and speakers: judges, coverage, tests, both kinds of intervals."""

import csv
import json

import keras
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from tones import SAMPLES

from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.evaluation import compare, format_comparison
from spectrovae.evaluation.judges import Judge
from spectrovae.evaluation.sound_metrics import Reference
from spectrovae.representations import MDCT, LogSTFT

OPTIONS = {"resamples": 200, "components": (4,), "batch_size": 8, "samples": 0, "log": lambda message: None}


def codec(representation, change, name):
    shape = representation.feature_shape(SAMPLES)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    encoder = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    return Codec(representation, encoder, keras.Model(latent, change(latent)), name=name)


def copy(representation):
    return codec(representation, keras.layers.Rescaling(1.0), "copy")


def constant(representation):
    """Says the same of everything."""
    return codec(representation, keras.layers.Rescaling(0.0, 0.5), "constant")


@pytest.fixture(scope="module")
def recordings(tones):
    return Recordings.open(tones, samples=SAMPLES)


@pytest.fixture(scope="module")
def judge(trained_judge):
    return trained_judge


@pytest.fixture(scope="module")
def log_stft():
    return LogSTFT(8000, n_fft=256, hop_length=64, phase_iterations=8)


@pytest.fixture(scope="module")
def made(recordings, judge, log_stft, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    models = [copy(log_stft), constant(log_stft)]
    return compare(models, recordings, out, judges=[Judge.load(judge)], **OPTIONS), out


def row(result, name):
    return next(row for row in result["rows"] if row["name"] == name)


def test_judges_hear_what_is_left(made, judge):
    result, _ = made
    told = json.loads((judge / "judge.json").read_text())["info"]["accuracy"]["test"]
    assert row(result, "original")["pitches_accuracy"] == pytest.approx(told)
    assert row(result, "original")["pitches_mmd"] is None
    assert row(result, "copy")["pitches_accuracy"] > 0.8
    # the same answer to all: one of three pitches is told, whatever it is
    assert row(result, "constant")["pitches_accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert row(result, "constant")["pitches_mmd"] > 10 * abs(row(result, "copy")["pitches_mmd"])
    assert row(result, "ceiling")["pitches_mmd"] == row(result, "identity")["pitches_mmd"]
    assert [judge["name"] for judge in result["settings"]["judges"]] == ["pitches"]


def test_features_and_waveforms_are_those_of_the_split(made, recordings, log_stft):
    result, _ = made
    waveforms = np.concatenate([np.asarray(batch) for batch in recordings.waveforms("test")])
    features = np.asarray(log_stft(waveforms), np.float64)
    flat = features.reshape(len(features), -1)
    said = row(result, "constant")
    assert said["mse"] == pytest.approx(np.mean((flat - 0.5) ** 2), rel=1e-5)
    assert said["cosine"] == pytest.approx(np.mean(cosine_similarity(flat, np.ones((1, flat.shape[1])))), rel=1e-5)
    assert row(result, "copy")["mse"] == pytest.approx(0, abs=1e-9)
    sound = np.asarray(log_stft.inverse(np.full_like(features, 0.5, np.float32), SAMPLES))
    expected = np.mean(Reference(waveforms, 8000).multi_resolution_stft(sound))
    assert said["mr_stft"] == pytest.approx(expected, rel=1e-3)
    assert row(result, "ceiling")["mse"] is None


def test_invented_phase_has_no_si_sdr_and_kept_phase_has(made, recordings, tmp_path):
    result, _ = made
    assert "search" in result["representations"][0]["absent"]["si_sdr_db"]
    assert not any(name.startswith("si_sdr") for name in result["rows"][0])
    exact = compare([copy(MDCT(8000, frame_length=128, dynamic_range=140.0))], recordings, tmp_path / "out", **OPTIONS)
    assert "si_sdr_db" not in exact["representations"][0]["absent"]
    assert row(exact, "copy")["si_sdr_db"] > 30
    assert row(exact, "mean")["si_sdr_db"] < 10


def test_intervals_over_clips_and_over_speakers(made, recordings):
    result, _ = made
    said = row(result, "constant")
    assert result["settings"]["speakers"] == 2
    assert said["rmse_db_speaker_low"] <= said["rmse_db"] <= said["rmse_db_speaker_high"]
    assert said["rmse_db_low"] < said["rmse_db"] < said["rmse_db_high"]
    # with two speakers the interval is that of one, of the other, or of both: its ends are the speakers' own figures
    by_speaker = {}
    for test in ("flute", "reed"):
        own = [i for i, example in enumerate(recordings.examples("test")) if example.speaker == test]
        waveforms = np.concatenate([np.asarray(batch) for batch in recordings.waveforms("test")])[own]
        features = np.asarray(LogSTFT(8000, n_fft=256, hop_length=64)(waveforms), np.float64)
        by_speaker[test] = np.mean((features - 0.5) ** 2)
    assert said["mse_speaker_low"] == pytest.approx(min(by_speaker.values()), rel=1e-4)
    assert said["mse_speaker_high"] == pytest.approx(max(by_speaker.values()), rel=1e-4)


def test_models_are_tested_against_each_other(made):
    result, out = made
    tests = {row["figure"]: row for row in result["tests"]}
    assert {(row["first"], row["second"]) for row in result["tests"]} == {("copy", "constant")}
    assert tests["rmse_db"]["difference"] < 0
    assert tests["rmse_db"]["p_holm"] < 0.001
    assert tests["rmse_db"]["representation"] is not None
    assert tests["mr_stft"]["representation"] is None
    with open(out / "tests.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(result["tests"])


def test_page_and_table_show_them(made):
    result, out = made
    page = (out / "report.html").read_text()
    for said in ("pitches", "MR-STFT", "MCD", "copy − constant", "original", "si_sdr"):
        assert said in page
    table = format_comparison(result)
    assert max(map(len, table.splitlines())) <= 120
    line = [line for line in table.splitlines() if line.startswith("constant")][1]
    assert f"{row(result, 'constant')['mcd_db']:.2f}" in line


def test_coverage_is_counted(made):
    """PESQ may find no speech in tones; where it does not, they are counted as not covered."""
    pytest.importorskip("pesq")
    result, _ = made
    for system in ("copy", "constant"):
        assert 0 <= row(result, system)["pesq_clips"] <= result["settings"]["clips"]
        assert (row(result, system)["pesq"] is None) == (row(result, system)["pesq_clips"] == 0)
    assert row(result, "original")["pesq_clips"] is None


def test_a_judge_of_other_labels_is_refused(judge, log_stft, tmp_path):
    toy = Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=SAMPLES)
    with pytest.raises(InputError, match="none of them, but "):
        compare([copy(log_stft)], toy, tmp_path / "out", judges=[Judge.load(judge)], **OPTIONS)
    without = Judge.load(judge)
    without.target = "speaker"
    with pytest.raises(InputError, match="the test split has none of them, but no speakers: compare without it"):
        compare([copy(log_stft)], toy, tmp_path / "out", judges=[without], **OPTIONS)
    with pytest.raises(InputError, match="resamples"):
        compare([copy(log_stft)], toy, tmp_path / "out", **{**OPTIONS, "resamples": 0})


def test_the_command_takes_judges_and_resamples(recordings, judge, log_stft, tmp_path, capsys):
    copy(log_stft).save(tmp_path / "copy")
    command = ["compare", str(tmp_path / "copy"), "--data", recordings.get_config()["source"], "--json", "--limit", "4"]
    options = ["--judge", str(judge), "--judge", str(judge), "--resamples", "50", "--samples", "0"]
    assert main([*command, *options, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["resamples"] == 50
    assert [judge["name"] for judge in result["settings"]["judges"]] == ["pitches", "pitches_2"]
    assert main([*command, "--judge", str(tmp_path / "copy"), "--out", str(tmp_path / "other")]) == 2
    assert "judge.json" in capsys.readouterr().err
