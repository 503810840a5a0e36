"""The recipes in scripts/ and the README's Python run as they stand."""

import re
import runpy
import sys

import pytest
from conftest import ROOT

from spectrovae.codec import Codec

TOY = "toy:harmonic?size=40"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a recipe with its arguments and returns what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_recipes_that_take_models_run(run, trained, tmp_path):
    """Those that train: tests/nightly/test_recipes_that_train.py, and fit_vae.py here."""
    vae, unet = trained("vae"), trained("unet")
    assert "PCA-8" in run("compare.py", TOY, tmp_path / "compare", vae, unet)
    assert "gain" in run("evaluate_robustness.py", TOY, tmp_path / "robustness", vae, unet)
    assert "(1, 8000) -> (1, 8000)" in run("export.py", vae, tmp_path / "served")


def test_a_recipe_that_trains(run, tmp_path):
    assert "validation_rmse_db" in run("fit_vae.py", TOY, tmp_path / "vae", "--epochs", 1)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """On a toy set, one epoch."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "data/fsdd" in code
    assert "epochs=20" in code
    monkeypatch.chdir(tmp_path)
    code = code.replace("data/fsdd", TOY).replace("epochs=20", "epochs=1, verbose=0")
    names: dict = {}
    before, after = code.split("z = ")
    exec(before, names)
    names["waveform"] = next(iter(names["recordings"].waveforms("test")))
    exec("z = " + after, names)
    assert names["z"].shape == (len(names["waveform"]), 1, 128)
    assert Codec.load(tmp_path / "saved_models" / "digits", verify=True).prior == "standard_normal"
