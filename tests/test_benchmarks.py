"""Benchmarks run as documented, at their smallest size; the slow ones: tests/nightly/test_slow_benchmarks.py."""

import importlib.util
import os
import re
import runpy
import shutil
import sys

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
COMMANDS = {
    "features.py": "TONES --rounds 1",
    "mdct.py": "--rounds 1",
    "prior_quality.py": "PRIOR --data TONES --judge JUDGE -n 4",
    "toys.py": "--sounds 2 --rounds 1",
    "waveform_quality.py": "WAVEFORM-VAE --data TONES --above 2000",
}
SLOW = {
    "compare.py": ["TONES --rounds 1", "TONES --full VAE UNET --judge JUDGE --times 1"],
    "features.py": ["--memory --minutes 1"],
    "hierarchy.py": ["toy:harmonic?size=20 --epochs 1 --preset tiny"],
    "phase.py": ["--repeats 1 --clips 1 --seconds 0.5"],
    "priors.py": ["--repeats 1 --batch 1 --preset tiny"],
    "rave.py": ["--repeats 1 --versions v1 --threads 1 --blocks 5"],
    "serving.py": ["--clients 1 --rounds 1 --starts 1", "--mixed 40"],
    "throughput.py": ["--rounds 1 --batch-size 1 --ours-steps 1"],
}


@pytest.fixture
def run(monkeypatch, trained, trained_judge, tones, tmp_path):
    """Runs a benchmark; words in capitals are the folders they name."""

    def prior():
        from spectrovae.cli import main

        bundle = shutil.copytree(trained("vae"), tmp_path / "vae")
        fit = ["fit-prior", str(bundle), "--data", str(tones), "--kind", "mixture", "--preset", "tiny"]
        assert main([*fit, "--conditions", "label"]) == 0
        return bundle

    folders = {"TONES": lambda: tones, "JUDGE": lambda: trained_judge, "PRIOR": prior}
    folders |= {name.upper(): lambda name=name: trained(name) for name in ("vae", "unet", "waveform-vae")}

    def run(name, command):
        needed = {"phase.py": "SPECTROVAE_DATA" in os.environ, "rave.py": importlib.util.find_spec("torch")}
        needed["compare.py"] = importlib.util.find_spec("pesq")
        if not needed.get(name, True):
            pytest.skip(f"{name} needs what is not here: recordings, torch or pesq")
        words = [str(folders[word]()) if word in folders else word for word in command.split()]
        monkeypatch.setattr(sys, "argv", [name, *words])
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_runs(name, run, capsys):
    run(name, COMMANDS[name])
    assert re.search(r"\d", capsys.readouterr().out)


def test_every_benchmark_is_run():
    assert {path.name for path in BENCHMARKS.glob("*.py")} == {*COMMANDS, *SLOW}


def test_the_published_model_is_compared_with_what_takes_its_features():
    from spectrovae.models import FAMILIES

    module = runpy.run_path(str(BENCHMARKS / "throughput.py"))
    assert set(module["FAMILIES"]) == set(FAMILIES) - {"rave", "waveform-vae"}
    for family in module["FAMILIES"]:
        FAMILIES[family](module["FEATURE_SHAPE"], preset="tiny")
