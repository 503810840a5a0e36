"""The reproductions: each runs at its small setting and is continued; verdicts follow from figures by their rules."""

import csv
import json
import os
import sys
from types import SimpleNamespace

import keras
import librosa
import numpy as np
import pytest
from conftest import ROOT
from page_check import check_page

from spectrovae.errors import InputError
from spectrovae.pca import principal_components
from spectrovae.representations import LogSTFT

sys.path.insert(0, str(ROOT / "scripts" / "reproduce"))

import assignment
import atiam
import reproduction
import survey
import vae_against_unet

FEW = range(3, 10)  # of rows: one for each number of directions
FIRST = {"linear": "size", "fidelity": "directions"}  # columns that tell rows apart; the name in other tables
TABLES = {
    vae_against_unet: {"vae_against_unet": 2 * (2 + 3)},
    assignment: {"assignment": 2 * (3 + 1), "waveform": 2},
    atiam: {"representations": 5, "normalisation": 4, "beta": 2, "warmup": 4},
    survey: {"linear": 2, "codes": 2, "fidelity": FEW},
}


def check_small_run(script, out, capsys):
    """It runs at its smallest setting, writes its tables, verdicts and page, and does not train again."""
    assert script.main(["--small", "--out", str(out)]) == 0
    assert "| claim | verdict | because |" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    assert set(result["tables"]) == set(TABLES[script])
    for name, rows in result["tables"].items():
        assert len(rows) == TABLES[script][name] if TABLES[script][name] is not FEW else len(rows) in FEW
        column = FIRST.get(name, "name")
        with open(out / f"{name}.csv", newline="") as stream:
            assert [row[column] for row in csv.DictReader(stream)] == [str(row[column]) for row in rows]
    assert all(verdict["outcomes"] for verdict in result["verdicts"])
    page = (out / "report.html").read_text()
    assert reproduction.SMALL in page

    fits = {path: os.stat(path).st_mtime_ns for path in out.glob("**/fits/*/codec.json")}
    assert fits
    assert script.main(["--small", "--out", str(out)]) == 0
    assert {path: os.stat(path).st_mtime_ns for path in out.glob("**/fits/*/codec.json")} == fits
    again = json.loads((out / "result.json").read_text())
    assert again["verdicts"] == result["verdicts"]
    assert again["tables"] == result["tables"]


def test_a_small_run(tmp_path, capsys):
    """The others: tests/nightly/test_reproduce_scripts.py."""
    check_small_run(vae_against_unet, tmp_path / "out", capsys)


def options(out, **changed):
    return SimpleNamespace(out=out, data="toy:harmonic", epochs=2, seeds=(0,), small=False, **changed)


def test_a_folder_keeps_its_settings(tmp_path):
    out = tmp_path / "out"
    reproduction.claim_folder(options(out))
    more = options(out)
    more.seeds = (0, 1)
    reproduction.claim_folder(more)
    longer = options(out)
    longer.epochs = 3
    with pytest.raises(InputError, match=r"begun with other settings \(epochs\)"):
        reproduction.claim_folder(longer)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no reproduction"):
        reproduction.claim_folder(options(tmp_path / "other"))
    for damage in ("{", "5", "[1]"):
        (out / "settings.json").write_text(damage)
        with pytest.raises(InputError, match="damaged"):
            reproduction.claim_folder(options(out))


def test_refusals_end_with_2(tmp_path, capsys):
    assert survey.main(["--small", "--data", "toy:nothing", "--out", str(tmp_path / "out")]) == 2
    assert "no toy set" in capsys.readouterr().err


@pytest.mark.parametrize(("outcomes", "said"), [
    ((True, True), "held"), ((False,), "did not hold"), ((), "not measured"),
    ((True, False, True), "held in 2 of 3 cases"),
])  # fmt: skip
def test_a_verdict_counts_its_cases(outcomes, said):
    assert reproduction.Verdict("claim", "rule", outcomes, "figures").text == said


def test_text_and_page_of_a_reproduction(tmp_path):
    rows = [
        {"name": "a <b>", "rmse_db": 3.14159, "bits": None},
        {"name": "c", "rmse_db": float("nan"), "bits": 12345.6},
    ]
    table = reproduction.Table("figures", "Some figures", {"name": "model", "rmse_db": "dB", "bits": "bits"}, rows)
    verdict = reproduction.Verdict("It | works", "its figure is lower", [np.True_], "1 against 2")
    found = reproduction.Reproduction("Title", "Setting.", [table], [verdict], ["Not the same."])
    found.save(tmp_path, small=False)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| It / works | held | 1 against 2 |" in lines
    assert "| a <b> | 3.14 | – |" in lines
    assert "| c | nan | 12346 |" in lines
    assert json.loads((tmp_path / "result.json").read_text())["tables"]["figures"][1]["rmse_db"] is None
    assert (tmp_path / "figures.csv").read_text().splitlines()[2] == "c,,12345.6"
    page = (tmp_path / "report.html").read_text()
    check_page(page)
    assert "a &lt;b&gt;" in page
    assert reproduction.SMALL not in page


def said(found):
    return {verdict.claim: verdict.text for verdict in found}


def test_verdicts_of_vae_against_unet():
    def row(set_up, name, seed, rmse, units, db, heard, **more):
        keys = ("consistency_units", "fidelity_units", "consistency_db", "fidelity_db")
        return {
            "set_up": set_up, "name": name, "seed": seed, "rmse_db": rmse, **dict(zip(keys, (*units, *db))),
            "heard_convergence_db": heard, **more,
        }  # fmt: skip

    rows = [
        row("published", "VAE", 0, 5.0, (30.0, 31.0), (0.5, 5.1), -1.0),
        row("published", "VAE", 1, 5.0, (30.0, 31.0), (0.5, 5.1), -1.0),
        row("published", "U-Net", 0, 0.1, (20.0, 20.0), (4.7, 4.7), -2.0),
        row("published", "U-Net", 1, 0.1, (40.0, 20.0), (4.7, 4.7), -2.0),
        row("corrected", "VAE", 0, 3.4, (30.0, 31.0), (0.5, 3.5), -6.0),
        row("corrected", "U-Net", 0, 0.1, (20.0, 20.0), (0.4, 3.4), -1.0),
        {"set_up": "published", "name": "identity", "seed": None, "convergence_zero_db": -1.0,
         "convergence_search_db": -26.0},
    ]  # fmt: skip
    found = said(vae_against_unet.verdicts(rows))
    start = "The U-Net is more robust than the VAE, as "
    assert found[start + "published, ±10 on normalised features"] == "held in 1 of 2 cases"
    assert found[start + "published, ±10 dB before normalising"] == "did not hold"  # nearer, but it moves more
    assert found[start + "corrected, ±10 dB before normalising"] == "held"
    assert found["The U-Net reconstructs better than the VAE, as published"] == "held"
    assert found["What the report calls Griffin-Lim is as good as a phase search"] == "did not hold"
    nearer = "The corrected pipeline of the {} is nearer to the recordings than the published one"
    assert found[nearer.format("VAE")] == "held"
    assert found[nearer.format("U-Net")] == "did not hold"


def test_the_published_sound_is_an_inverse_stft_of_zero_phase():
    representation = LogSTFT(22050, n_fft=512, hop_length=256)
    random = np.random.default_rng(0)
    db = (80.0 * random.random((2, 256, 64, 1)) - 80.0).astype(np.float32)
    ours = vae_against_unet.synthesise(representation, db, 16128, "zero")
    magnitude = np.zeros((2, 257, 64), np.float32)
    magnitude[:, :256] = 128.0 * 10.0 ** (db[..., 0] / 20.0)
    # away from the ends, where conventions of padding differ
    theirs = librosa.istft(magnitude.astype(np.complex64), n_fft=512, hop_length=256, length=16128)
    np.testing.assert_allclose(ours[:, 512:-512], theirs[:, 512:-512], atol=1e-4 * np.abs(theirs).max())


def test_verdicts_of_the_assignment():
    def row(mels, name, rmse, bits, bound, lsd):
        return {"mels": mels, "name": name, "seed": 0, "rmse_db": rmse, "bits": bits, "bound_nats": bound,
                "sound_lsd_db": lsd}  # fmt: skip

    rows = [
        row(128, "VAE", 3.4, 460.0, -100.0, 2.8), row(256, "VAE", 3.5, 460.0, -200.0, 2.7),
        row(128, "hierarchical VAE", 3.0, 1800.0, -110.0, 2.5), row(256, "hierarchical VAE", 3.6, 1800.0, -210.0, 2.4),
        row(128, "VQ-VAE", 3.8, 1024.0, None, 2.9), row(256, "VQ-VAE", 3.9, 1024.0, None, 3.0),
    ]  # fmt: skip
    assert list(said(assignment.verdicts(rows)).values()) == [
        "held in 1 of 2 cases", "held", "did not hold", "held", "held in 2 of 3 cases", "not measured",
    ]  # fmt: skip
    raw = [{"name": name, "seed": 0, "sound_lsd_db": lsd} for name, lsd in zip(assignment.HEADS.values(), (2.75, 5.0))]
    verdict = said(assignment.verdicts(rows, raw))["A VAE of the waveform sounds as near as one of mel spectrograms"]
    assert verdict == "held in 1 of 4 cases"
    assert said(assignment.verdicts(rows[::2]))["More bands sound better"] == "not measured"


def test_verdicts_of_atiam():
    def row(name, units=3, relative=0.5, **more):
        defaults = {"convergence_db": -6.0, "axes_95": 4}
        return {"name": name, "seed": 0, "active_units": units, "relative": relative} | defaults | more

    contents = [
        row("magnitude, linear"), row("magnitude, dB", relative=0.2), row("MDCT, linear", convergence_db=-0.1),
        row("MDCT, dB and sign", relative=0.4),
    ]  # fmt: skip
    normalisation = [row(atiam.NORMALISED, 0), row(atiam.RAW, 5), row(atiam.CALIBRATED, 13), row(atiam.STANDARD, 1)]
    betas = [
        row("beta 0.5", beta=0.5, kl_nats=40.0, rmse_db=1.0, axes_95=8),
        row("beta 1", 5, beta=1.0, kl_nats=30.0, rmse_db=1.1),
        row("beta 2", beta=2.0, kl_nats=20.0, rmse_db=1.3, axes_95=3),
    ]
    warmup = [
        row("none, in [0, 1]", 0), row("linear, in [0, 1]", 0), row("none, magnitudes", 4),
        row("linear, magnitudes", 6),
    ]  # fmt: skip
    found = list(said(atiam.verdicts(contents, normalisation, betas, warmup)).values())
    assert found == ["held", "did not hold", "held", "did not hold", "held", "held", "held", "did not hold"]
    betas[1]["kl_nats"], betas[1]["active_units"] = 41.0, 3
    normalisation[2]["active_units"] = 0
    found = list(said(atiam.verdicts(contents, normalisation, betas, warmup)).values())
    assert found == ["held", "held", "held", "did not hold", "did not hold", "did not hold", "held", "did not hold"]
    contents[2]["convergence_db"], contents[3]["relative"], betas[1]["active_units"] = -9.0, 0.1, 5
    betas[1]["axes_95"] = 5
    found = list(said(atiam.verdicts(contents, normalisation, betas, warmup)).values())
    assert found == ["held", "held", "did not hold", "held", "did not hold", "did not hold", "held", "did not hold"]


def test_principal_axes_of_a_latent_of_known_variances():
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.standard_normal((4, 4)))[0]
    codes = np.linalg.qr(random.standard_normal((500, 4)) - 0.0)[0]
    codes = (codes - codes.mean(axis=0)) * np.sqrt([85.0, 7.0, 5.0, 3.0]) @ rotation
    found = atiam.principal_axes(codes.astype(np.float32))
    assert found["first_axis"] == pytest.approx(0.85, abs=0.01)
    assert [found["axes_90"], found["axes_95"], found["axes_99"]] == [2, 3, 4]
    assert atiam.principal_axes(np.ones((50, 4), np.float32))["axes_95"] is None


def linear_codec(weights, mean):
    """The linear autoencoder with the decoder's weights (size, cells) and their pseudo-inverse as encoder."""
    inverse = np.linalg.pinv(weights)
    decoder = keras.Sequential([keras.layers.Input((len(weights),)), keras.layers.Dense(len(mean), name="linear")])
    decoder.layers[-1].set_weights([weights, mean])

    def reconstruct(features):
        flat = features.reshape(len(features), -1) - mean
        return (flat @ inverse @ weights + mean).reshape(features.shape)

    return SimpleNamespace(
        decoder=decoder, reconstruct_features=reconstruct, representation=SimpleNamespace(db_per_unit=80.0)
    )


def test_a_basis_of_the_principal_subspace_is_found_to_be_one():
    random = np.random.default_rng(0)
    scales = np.array([5.0, 4.0, 3.0, 1.0, 0.5, 0.4, 0.3, 0.2])
    features = {name: (random.standard_normal((80, 8)) * scales).reshape(80, 4, 2, 1).astype(np.float32) for name in (
        "train", "test"
    )}  # fmt: skip
    pca = principal_components([features["train"]], 4)
    mixed = random.standard_normal((3, 3)).astype(np.float32) @ pca.components[:3]
    found = survey.against_pca(linear_codec(mixed, pca.mean.ravel()), features, pca)
    assert found["train_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert found["largest_angle"] < 0.1
    assert found["captured"] == pytest.approx(1.0, abs=1e-4)
    assert found["gap"] == pytest.approx(float(pca.variances[2] / pca.variances[3]))
    swapped = pca.components[[0, 1, 3]]
    found = survey.against_pca(linear_codec(swapped, pca.mean.ravel()), features, pca)
    assert found["largest_angle"] == pytest.approx(90.0, abs=0.1)
    assert found["median_angle"] < 0.1
    lost = 1.0 - (pca.variances[2] - pca.variances[3]) / pca.variances[:3].sum()
    assert found["captured"] == pytest.approx(float(lost), rel=1e-3)


def test_verdicts_of_the_survey():
    linear = [
        {"size": 4, "train_ratio": 1.001, "largest_angle": 3.0},
        {"size": 8, "train_ratio": 1.005, "largest_angle": 60.0},
        {"size": 16, "train_ratio": 1.2, "largest_angle": 5.0},
    ]  # fmt: skip
    codes = [
        {"name": name, "seed": 0, "bits": bits, "rmse_db": rmse, "gaussian_bits": 1000.0, "to_samples": 129024 / bits}
        for name, bits, rmse in (
            ("K=64", 768.0, 4.0), ("K=256", 1024.0, 3.8), ("K=1024", 1280.0, 3.9), ("K=256, 2 stages", 2048.0, 3.2),
        )
    ]  # fmt: skip
    directions = [
        {"seed": seed, "directions": count, "fidelity": share, "cut": cut}
        for seed, near in ((0, 5.2), (1, 6.0))
        for count, share, cut in ((1, 0.5, 9.0), (7, 0.96, near), (16, 1.0, 5.0))
    ]
    assert said(survey.verdicts(linear, codes, directions)) == {
        "A linear autoencoder reaches PCA's error": "held in 2 of 3 cases",
        "It spans PCA's subspace": "held in 1 of 3 cases",
        "More bits, less error": "held in 2 of 3 cases",
        "Few directions of RAVE's latent are enough": "held in 1 of 2 cases",
        "Learned codes are smaller than the best code of Gaussian clips": "held in 1 of 4 cases",
    }
