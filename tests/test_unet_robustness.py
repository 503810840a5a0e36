"""The reproduction of the claim that the U-Net is far more robust: its verdict and its options."""

import runpy
import shutil

import pytest
from conftest import ROOT
from tones import SAMPLES

from spectrovae.data import Recordings
from spectrovae.errors import InputError
from spectrovae.representations import LogSTFT

SCRIPT = str(ROOT / "scripts" / "reproduce" / "unet_robustness.py")


def row(name, consistency, fidelity, perturbation="uniform", severity=10.0, gain=0.5):
    return {
        "name": name, "perturbation": perturbation, "severity": severity, "consistency_db": consistency,
        "fidelity_db": fidelity, "gain": gain,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("unet", "vae", "answer"),
    [
        ([(1.0, 1.0), (1.1, 1.0)], [(3.0, 3.0), (3.0, 3.0)], "holds"),
        ([(2.0, 2.0), (2.0, 2.0)], [(3.0, 3.0), (3.0, 3.0)], "holds in direction, not in size"),
        ([(3.0, 5.0), (3.0, 5.0)], [(1.0, 4.0), (1.0, 4.0)], "is the opposite of what was found"),
        ([(3.0, 1.0), (3.0, 1.0)], [(1.0, 4.0), (1.0, 4.0)], "does not hold: it is better in one sense"),
        ([(3.0, 4.0), (0.5, 4.0)], [(1.0, 4.0), (1.0, 4.0)], "does not hold"),  # the seeds disagree
    ],
)
def test_the_verdict_follows_from_the_figures(unet, vae, answer):
    module = runpy.run_path(SCRIPT)
    options = module["parse"](["--small", "--out", "x", "--seeds", "0,1"])
    names = [model.name for model in module["models_of"](options)]
    rows = []
    for seed in (0, 1):
        for name in names:
            rows.append(row(name, *(unet if name == "U-Net, all skips" else vae)[seed]))
        rows.append(row("identity", 5.77, 5.77, gain=1.0))
        rows.append(row("PCA-8", 1.0, 4.0))
    found = module["verdict"](rows, options)
    assert found["answer"].startswith(answer)
    assert f"it {found['answer']}" in found["sentences"][0]
    assert list(found["compared"]) == ["uniform:10"]
    assert sum("U-Net, no skips" in sentence for sentence in found["sentences"]) == 2
    assert "Fewer than three seeds" in found["sentences"][-1]


def test_what_the_script_refuses(capsys):
    parse = runpy.run_path(SCRIPT)["parse"]
    for arguments, message in (
        (["--out", "x"], "--data is needed"),
        (["--small", "--out", "x", "--perturbation", "gain:3"], "uniform:10"),
    ):
        with pytest.raises(SystemExit) as stopped:
            parse(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_a_fit_of_other_settings_is_never_taken_for_this_one(trained, tones, tmp_path):
    module = runpy.run_path(SCRIPT)
    shutil.copytree(trained("vae"), tmp_path / "fits" / "VAE-0")
    recordings = Recordings.open(tones, samples=SAMPLES)
    options = module["parse"](["--small", "--out", "x", "--epochs", "1"])
    with pytest.raises(InputError, match="holds a run with other settings"):
        module["fitted"](module["models_of"](options)[0], 0, tmp_path, recordings, LogSTFT(8000), options)
