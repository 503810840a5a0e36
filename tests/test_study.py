"""The study: several fits, one table, one picture; stopped and continued."""

import csv
import json
import os

import numpy as np
import pytest

from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.study import summarise

QUICK = ("--data", "toy:harmonic?size=40", "--preset", "tiny", "--epochs", "1", "--batch-size", "8")


def run(capsys, *arguments):
    capsys.readouterr()
    assert main(["study", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of two families on two seeds, made once."""
    out = tmp_path_factory.mktemp("study") / "families"
    assert main(["study", "vae", "unet", *QUICK, "--seeds", "0,1", "--out", str(out)]) == 0
    return out, json.loads((out / "study.json").read_text())


def test_every_family_and_seed_is_a_bundle_and_a_row(made):
    out, result = made
    assert [(row["name"], row["seed"]) for row in result["rows"]] == [("vae", 0), ("vae", 1), ("unet", 0), ("unet", 1)]
    assert sorted(path.name for path in (out / "fits").iterdir()) == ["unet-0", "unet-1", "vae-0", "vae-1"]
    kinds = {row["name"]: row["kind"] for row in result["rows"]}
    assert kinds == {"vae": "posterior", "unet": "noise"}
    for row in result["rows"]:
        assert row["bits"] > 0
        assert row["distortion_db"] >= row["rmse_db"] > 0
    assert [row["family"] for row in csv.DictReader((out / "study.csv").open())] == ["vae", "vae", "unet", "unet"]
    assert all(row["findings"] for row in result["rows"])
    [reference] = result["references"]
    errors = reference["gaussian_bound"]["rmse_db"]
    assert errors == sorted(errors, reverse=True)
    page = (out / "report.html").read_text()
    assert page.count("<img") == 1
    assert "PCA-8" in page


def test_errors_are_those_of_the_bundles(made):
    from spectrovae.data import Recordings

    out, result = made
    recordings = Recordings.open("toy:harmonic?size=40")
    codec = Codec.load(out / "fits" / "vae-1")
    features = np.concatenate([np.asarray(batch) for batch in recordings.features("test", codec.representation)])
    error = (codec.reconstruct_features(features) - features)[..., 0] * codec.representation.db_per_unit
    assert result["rows"][1]["rmse_db"] == pytest.approx(np.sqrt(np.mean(np.square(error))), rel=1e-4)


def test_summary_is_over_seeds(made):
    _, result = made
    found = result["summary"]
    assert [(row["name"], row["seeds"]) for row in found] == [("vae", 2), ("unet", 2)]
    errors = [row["rmse_db"] for row in result["rows"] if row["name"] == "vae"]
    assert found[0]["rmse_db"] == pytest.approx(np.mean(errors))
    assert found[0]["rmse_db_deviation"] == pytest.approx(np.std(errors, ddof=1))
    assert summarise(result["rows"][:1])[0]["rmse_db_deviation"] is None


def test_what_is_finished_is_not_trained_again(made, capsys):
    out, before = made
    times = {path: os.stat(path).st_mtime_ns for path in out.glob("fits/*/codec.json")}
    again = run(capsys, "vae", "unet", *QUICK, "--seeds", "0,1", "--out", out)
    assert {path: os.stat(path).st_mtime_ns for path in times} == times
    assert [row["rmse_db"] for row in again["rows"]] == [row["rmse_db"] for row in before["rows"]]


def test_magnitudes_have_no_bound_in_db(tmp_path, capsys):
    magnitudes = ("--representation", "spectrum", "--scale", "linear", "--network", "dense")
    result = run(capsys, "autoencoder", *QUICK, *magnitudes, "--out", tmp_path / "magnitudes")
    assert result["references"][0]["gaussian_bound"] is None


def test_one_option_varies(tmp_path, capsys):
    result = run(capsys, "vae", *QUICK, "--vary", "latent-dim=2,5", "--out", tmp_path / "sizes")
    assert [(row["name"], row["numbers"]) for row in result["rows"]] == [
        ("vae latent_dim=2", 2),
        ("vae latent_dim=5", 5),
    ]


@pytest.mark.parametrize(("arguments", "message"), [
    (("vae", "unet", "--vary", "beta=1,2"), "--vary takes NAME=A,B,... and one family"),
    (("vae", "--vary", "beta"), "--vary takes NAME=A,B"),
    (("vae", "--vary", "split=hash,speaker"), "--vary takes one of .*beta.*, received 'split'"),
    (("unet", "--vary", "beta=1,2"), "--beta is no option of unet"),
    (("vae", "vae"), "two trials of the study have the same name and seed"),
    (("wavelet",), "family must be one of"),
])  # fmt: skip
def test_refusals(arguments, message, tmp_path, capsys):
    import re

    assert main(["study", *arguments, *QUICK, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["study", "vae", *QUICK, "--out", str(tmp_path)]) == 2
    assert "is not a study" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_families_of_samples_stand_beside_those_of_spectrograms(tmp_path, capsys):
    """With RAVE: tests/nightly/test_every_family.py."""
    check_families(["autoencoder", "waveform-vae"], tmp_path, capsys)


def check_families(families, tmp_path, capsys):
    """Each on its own representation, all on examples of a length that each can take, which is rounded up once."""
    out = tmp_path / "study"
    arguments = ["study", *families, "--data", "toy:harmonic?size=40", "--duration", "0.25"]
    assert main([*arguments, "--epochs", "1", "--preset", "tiny", "--out", str(out)]) == 0
    capsys.readouterr()
    codecs = [Codec.load(path) for path in sorted((out / "fits").iterdir())]
    kinds = {"rave": "Subbands", "waveform-vae": "Chunks"}
    assert [type(codec.representation).__name__ for codec in codecs] == [
        kinds.get(family, "LogSTFT") for family in sorted(families)
    ]
    rows = json.loads((out / "study.json").read_text())["rows"]
    assert [row["family"] for row in rows] == families
    assert all(np.isfinite(row["rmse_db"]) for row in rows)
    assert {codec.segment_samples for codec in codecs} <= {2048, 1920}  # of a spectrogram: what its frames span
