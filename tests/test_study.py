"""The study: several fits, one table, one picture; stopped and continued."""

import csv
import json
import os

import numpy as np
import pytest
from test_run_folder import held

from spectrovae import files
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.study import Trial, _page, folders, summarise

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


@pytest.mark.parametrize(("family", "vary", "values"), [
    ("vq-vae", "levels=4,4;3,3,3", [[4, 4], [3, 3, 3]]),
    ("vq-vae", "levels=4,4", [[4, 4]]),
    ("unet", "skips=0,1;none", [[0, 1], []]),
    ("vq-vae", "code-map=1,32;4,8", [[1, 32], [4, 8]]),
    ("vae", "augment=gain:6,noise:20;gain:3", ["gain:6,noise:20", "gain:3"]),
    ("vae", "beta=1; 2", [1.0, 2.0]),
])  # fmt: skip
def test_options_that_are_lists_vary(family, vary, values, tmp_path, monkeypatch):
    """What each fit is called with; nothing is trained."""
    import spectrovae.study
    from spectrovae.commands import models

    monkeypatch.setattr(spectrovae.study, "study", lambda trials, *_, **__: {"trials": trials})
    monkeypatch.setattr(spectrovae.study, "format_study", lambda _: "")
    called = []
    monkeypatch.setattr(models, "chosen_fit_options", lambda own: called.append(own))
    extra = ["--quantiser", "scalar"] if vary.startswith("levels") else []
    assert main(["study", family, *QUICK, *extra, "--vary", vary, "--out", str(tmp_path / "out")]) == 0
    name = vary.split("=")[0].replace("-", "_")
    found = [getattr(own, name) for own in called]
    assert [list(value) if isinstance(value, tuple) else value for value in found] == values


def test_examples_are_as_long_as_every_value_needs(tmp_path, monkeypatch):
    import spectrovae.study
    from spectrovae.models import FAMILIES

    seen = []
    monkeypatch.setattr(spectrovae.study, "study", lambda trials, recordings, *_, **__: seen.append(recordings) or {})
    monkeypatch.setattr(spectrovae.study, "format_study", lambda _: "")
    command = ["study", "rave", *QUICK, "--duration", "0.27", "--vary", "bands=4,16", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert seen[0].samples % (16 * FAMILIES["rave"].frames_multiple("tiny")) == 0


@pytest.mark.parametrize(("changed", "named"), [
    (("--epochs", "2"), "options.epochs"), (("--beta", "3"), "model.beta"), (("--n-fft", "256"), "representation"),
    (("--data", "toy:harmonic?size=50"), "data"),
])  # fmt: skip
def test_fits_of_other_settings_or_data_are_never_taken(made, changed, named, capsys):
    out, _ = made
    before = (out / "study.json").read_text()
    assert main(["study", "vae", *QUICK, "--seeds", "0", *changed, "--out", str(out)]) == 2
    assert named in capsys.readouterr().err
    assert (out / "study.json").read_text() == before


def test_the_settings_of_each_fit_are_in_the_result(made):
    _, result = made
    assert [trial["folder"] for trial in result["trials"]] == ["vae-0", "vae-1", "unet-0", "unet-1"]
    configurations = [trial["configuration"] for trial in result["trials"]]
    assert [found["options"]["seed"] for found in configurations] == [0, 1, 0, 1]
    assert {found["options"]["epochs"] for found in configurations} == {1}
    assert {found["model"]["preset"] for found in configurations} == {"tiny"}
    assert all(found["data"]["fingerprint"] for found in configurations)


def test_trials_whose_names_are_one_on_a_disk_have_folders_of_their_own(tmp_path):
    names = ["vae beta=1", "vae_beta_1", "VAE beta=1", "模型 一", "模型 二"]
    trials = [Trial(name, "vae", seed, lambda path: None) for name in names for seed in (0, 1)]
    found = folders(trials, tmp_path)
    assert len({str(path).casefold() for path in found}) == len(trials)
    assert found[0].name == "vae_beta_1-0"
    assert found[-1].name == "模型_二-1"


def test_baselines_of_every_representation_are_in_the_table():
    row = {"family": "vae", "seed": 0, "kind": "posterior", "numbers": 4, "bits": 9.0, "distortion_db": 3.0,
           "rmse_db": 2.0, "rmse_active_db": 2.5, "bound_nats": None, "training_seconds": 1.0, "parameters": 10,
           "findings": []}  # fmt: skip
    rows = [row | {"name": name, "representation": name} for name in ("log-stft", "mdct")]
    references = [
        {"representation": name, "gaussian_bound": None,
         "baselines": [{"name": "PCA-8", "rmse_db": error, "rmse_active_db": error}]}
        for name, error in (("log-stft", 7.5), ("mdct", 8.5))
    ]  # fmt: skip
    result = {"rows": rows, "summary": summarise(rows), "references": references,
              "settings": {"clips": 3, "split": "test"}, "data": {"notes": []}}  # fmt: skip
    page = _page(result).html()
    assert "7.50" in page
    assert "8.50" in page


def test_one_option_varies(tmp_path, capsys):
    result = run(capsys, "vae", *QUICK, "--vary", "latent-dim=2,5", "--out", tmp_path / "sizes")
    assert [(row["name"], row["numbers"]) for row in result["rows"]] == [
        ("vae latent_dim=2", 2),
        ("vae latent_dim=5", 5),
    ]


@pytest.mark.parametrize(("arguments", "message"), [
    (("vae", "unet", "--vary", "beta=1,2"), "--vary takes NAME=A,B,... and one family"),
    (("vae", "--vary", "beta"), "--vary takes NAME=A,B"),
    (("vae", "--vary", "beta=,"), "--vary takes NAME=A,B"),
    (("vq-vae", "--vary", "levels=;"), "--vary takes NAME=A,B"),
    (("vae", "--vary", ""), "--vary takes NAME=A,B"),
    (("vq-vae", "--vary", "normalise=true,false"), "options with values, received the switch 'normalise'"),
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
    (tmp_path / "fits").mkdir()  # of a telescope
    (tmp_path / "report.html").write_text("mine")
    assert main(["study", "vae", *QUICK, "--out", str(tmp_path)]) == 2
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_second_study_in_the_folder_is_told_who_holds_it(tmp_path, capsys):
    out = tmp_path / "study"
    out.mkdir()
    with held(out) as pid:
        assert main(["study", "vae", *QUICK, "--out", str(out)]) == 2
    assert f"is in use by spectrovae fit, process {pid}" in capsys.readouterr().err
    (out / files.LOCK).write_text("left by a study that was killed before its first fit")
    run(capsys, "autoencoder", *QUICK, "--out", out)
    assert (out / "study.json").is_file()


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
    assert {codec.segment_samples for codec in codecs} <= {2048, 2000, 1920}  # of a spectrogram: what its frames span
