"""Every reproduction runs at its smallest setting, and is continued."""

import csv
import json
import runpy

import pytest
from page_check import check_page
from test_reproduce import TABLES, check_small_run, vae_against_unet
from test_unet_robustness import SCRIPT


@pytest.mark.parametrize(
    "script", [script for script in TABLES if script is not vae_against_unet], ids=lambda script: script.__name__
)
def test_a_small_run(script, tmp_path, capsys):
    check_small_run(script, tmp_path / "out", capsys)


def test_the_robustness_of_unets(tmp_path, capsys):
    main = runpy.run_path(SCRIPT)["main"]
    arguments = ["--small", "--epochs", "1", "--out", str(tmp_path)]
    result = main(arguments)
    bundles = sorted(path.name for path in (tmp_path / "fits").iterdir())
    assert len(bundles) == 8
    assert "U-Net_no_skips_denoising-0" in bundles
    with open(tmp_path / "unet_robustness.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(result["rows"])
    assert {row["name"] for row in rows} >= {"VAE", "U-Net, all skips", "identity", "mean"}
    assert json.loads((tmp_path / "unet_robustness.json").read_text()) == result
    page = check_page((tmp_path / "report.html").read_text())
    assert len(page.all("picture")) == 3
    assert result["verdict"]["sentences"][0] in (tmp_path / "report.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.keras")}
    before[tmp_path / "measured" / "0" / "robustness.json"] = (
        (tmp_path / "measured" / "0" / "robustness.json").stat().st_mtime_ns
    )
    capsys.readouterr()
    assert main(arguments) == result
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "epoch" not in capsys.readouterr().err
