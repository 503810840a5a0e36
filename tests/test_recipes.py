"""The recipes in scripts/ and the README's Python run as they stand."""

import re
import runpy
import sys

import pytest
from conftest import ROOT
from tones import write_tones

from spectrovae.codec import Codec

TOY = "toy:harmonic?size=40"


@pytest.mark.slow
def test_every_recipe_runs(tmp_path, monkeypatch, capsys):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        return capsys.readouterr().out

    vae, vq_vae, unet = (tmp_path / name for name in ("vae", "vq-vae", "unet"))
    assert "validation_rmse_db" in run("fit_vae.py", TOY, vae, "--epochs", 1)
    assert "drawn from its prior" in run("fit_hierarchical_vae.py", TOY, tmp_path / "hierarchy", "--epochs", 1)
    assert (tmp_path / "hierarchy" / "groups-1.wav").is_file()
    assert "PCA-8" in run("fit_autoencoder.py", TOY, tmp_path / "autoencoder", "--epochs", 1, "--latent-dim", 8)
    assert "bottleneck" in run("fit_unet.py", TOY, unet, "--epochs", 1)
    assert "of 1024 bits" in run("fit_vq_vae.py", TOY, vq_vae, "--epochs", 1)
    assert "PCA-8" in run("compare.py", TOY, tmp_path / "compare", vae, unet)
    assert "gain" in run("evaluate_robustness.py", TOY, tmp_path / "robustness", vae, unet)
    assert "(1, 8000) -> (1, 8000)" in run("export.py", vae, tmp_path / "served")
    (tmp_path / "tones").mkdir()
    tones = write_tones(tmp_path / "tones", takes=12)
    assert "test clips" in run("fit_judge.py", "label", tones, tmp_path / "judge", "--epochs", 1)
    voices = run("fit_converter.py", tones, tmp_path / "voices", "--epochs", 1, "--preset", "tiny")
    assert "reed.wav" in voices
    assert {path.name for path in (tmp_path / "voices" / "voices").iterdir()} == {"flute.wav", "reed.wav"}
    drawn = run("fit_waveform_vae.py", TOY, tmp_path / "waveform-vae", "--epochs", 1, "--preset", "tiny")
    assert "validation_distance" in drawn
    assert (tmp_path / "waveform-vae" / "drawn-2.wav").is_file()
    live = run("fit_rave.py", TOY, tmp_path / "rave", "--epochs", 2, "--adversarial-from", 1, "--preset", "tiny")
    assert "samples late" in live
    assert (tmp_path / "rave" / "live.wav").is_file()
    recipes = {path.name for path in (ROOT / "scripts").glob("*.py")}
    models = ("autoencoder", "vae", "hierarchical_vae", "vq_vae", "unet", "judge", "converter", "waveform_vae", "rave")
    fits = {f"fit_{name}.py" for name in models}
    assert recipes == fits | {"compare.py", "evaluate_robustness.py", "export.py"}


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
