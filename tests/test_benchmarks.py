"""Benchmarks run as documented, at their smallest size."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
COMMANDS = [
    ("compare.py", "TONES --rounds 1"),
    ("compare.py", "TONES --full VAE UNET --judge JUDGE --times 1"),
    ("features.py", "TONES --rounds 1"),
    ("features.py", "--memory --minutes 1"),
    ("hierarchy.py", "toy:harmonic?size=20 --epochs 1 --preset tiny"),
    ("mdct.py", "--rounds 1"),
    ("phase.py", "--repeats 1 --clips 1 --seconds 2"),
    ("prior_quality.py", "PRIOR --data TONES --judge JUDGE -n 4"),
    ("priors.py", "--repeats 1 --batch 1 --preset tiny"),
    ("rave.py", "--repeats 1 --versions v1 --threads 1 --blocks 5"),
    ("serving.py", "--clients 1 --rounds 1 --starts 1"),
    ("serving.py", "--mixed 40"),
    ("throughput.py", "--rounds 1 --batch-size 1 --ours-steps 1"),
    ("toys.py", "--sounds 2 --rounds 1"),
    ("waveform_quality.py", "WAVEFORM-VAE --data TONES --above 2000"),
]
OWN_PROCESS = ("serving.py",)
"""Sets the number of threads, which TensorFlow takes before its first operation alone."""


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
        if name in OWN_PROCESS:
            subprocess.run([sys.executable, BENCHMARKS / name, *words], check=True)
            return
        monkeypatch.setattr(sys, "argv", [name, *words])
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_benchmark_runs(name, command, run, capfd):
    run(name, command)
    assert re.search(r"\d", capfd.readouterr().out)


def test_every_benchmark_is_run():
    assert {path.name for path in BENCHMARKS.glob("*.py")} == {name for name, _ in COMMANDS}


def test_the_published_model_is_compared_with_what_takes_its_features():
    from spectrovae.models import FAMILIES

    module = runpy.run_path(str(BENCHMARKS / "throughput.py"))
    assert set(module["FAMILIES"]) == set(FAMILIES) - {"rave", "waveform-vae"}
    for family in module["FAMILIES"]:
        FAMILIES[family](module["FEATURE_SHAPE"], preset="tiny")
