"""A hundred SIGKILLs at random moments: nothing is lost, and a command that goes on ends as if never killed.

Each command runs in a process forked from one that has imported TensorFlow, so that a kill costs a second and not ten.
``SPECTROVAE_KILLS`` sets how many (100). Figures are in docs/results.md.
"""

import json
import multiprocessing
import os
import random
import sys
import time

import numpy as np
import pytest

from spectrovae import Codec, cli, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks after an import of TensorFlow")

KILLS = int(os.environ.get("SPECTROVAE_KILLS", "100"))
DATA = "toy:harmonic?size=160"
SMALL = ["--preset", "tiny", "--duration", "0.248", "--n-fft", "128", "--hop-length", "64", "--precision", "float32"]


def run(arguments, log):
    """The command line in a forked process, its output in a file."""
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os._exit(cli.main(arguments))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a command and return its process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "spectrovae.training", "spectrovae.evaluation", "spectrovae.serving"])
    log = tmp_path_factory.mktemp("log") / "output.txt"

    def begin(*arguments):
        process = context.Process(target=run, args=([str(argument) for argument in arguments], str(log)))
        process.start()
        return process

    begin.log = log
    return begin


def finish(start, *arguments) -> float:
    """Run a command to its end; how long that took, in seconds."""
    began = time.monotonic()
    process = start(*arguments)
    process.join()
    assert_ended(process, start.log)
    return time.monotonic() - began


def assert_ended(process, log):
    """By itself, and well; or it was killed after all was written, and says so now."""
    text = log.read_text()[-2000:]
    assert process.exitcode == 0 or (process.exitcode == 2 and "is finished; --force" in text.splitlines()[-1]), text


def killed(start, seconds: float, *arguments) -> bool:
    """Kill a command after so many seconds; False where it had ended by itself, and well."""
    process = start(*arguments)
    process.join(seconds)
    if process.exitcode is not None:
        assert_ended(process, start.log)
        return False
    process.kill()
    process.join()
    return True


def kill_until_done(start, kills, seconds, check, *arguments) -> int:
    """Kill a command again and again until it has ended or ``kills`` are used up, then let it end; kills used."""
    draw = random.Random(kills)
    used = 0
    while used < kills and killed(start, draw.uniform(0.2, 1.0) * seconds, *arguments):
        used += 1
        check()
    if used == kills:
        finish(start, *arguments)
    return used


@pytest.fixture(scope="module")
def bundle(start, tmp_path_factory):
    """A VQ-VAE and how long its fit took, uninterrupted."""
    out = tmp_path_factory.mktemp("bundle") / "vq-vae"
    seconds = finish(start, *fit_arguments("vq-vae", out))
    return out, seconds


def fit_arguments(family, out):
    return ["fit", family, "--data", DATA, *SMALL, "--epochs", 6, "--out", out]


def state(path):
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files if name != "progress"}


def test_fits_that_are_killed_end_as_those_that_are_not(start, bundle, tmp_path):
    reference, seconds = bundle
    used, chains = 0, 0
    while used < 0.4 * KILLS:
        out = tmp_path / f"fit{chains}"

        def check(out=out):
            if (out / "codec.json").exists():
                Codec.load(out, verify=True)

        used += kill_until_done(start, round(0.4 * KILLS) - used, seconds, check, *fit_arguments("vq-vae", out))
        chains += 1
        assert (out / "run/history.csv").read_text() == (reference / "run/history.csv").read_text()
        ended, expected = state(out / "run/state.npz"), state(reference / "run/state.npz")
        assert ended.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(ended[name], value, err_msg=name)
    print(f"{used} kills of {chains} fits")


def test_priors_that_are_killed_end_as_those_that_are_not(start, bundle, tmp_path):
    reference, _ = bundle
    arguments = ["--kind", "wavenet", "--preset", "tiny", "--epochs", 4, "--force"]
    seconds = finish(start, "fit-prior", reference, *arguments)
    expected = Codec.load(reference, verify=True).learned_prior.get_weights()
    used = chains = 0
    while used < 0.2 * KILLS:
        out = tmp_path / f"prior{chains}"
        Codec.load(reference, prior=False).save(out)

        def check(out=out):
            Codec.load(out, verify=True)

        command = ["fit-prior", out, "--data", DATA, *arguments]
        used += kill_until_done(start, round(0.2 * KILLS) - used, seconds, check, *command)
        chains += 1
        for ended, wanted in zip(Codec.load(out).learned_prior.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ended, wanted)
    print(f"{used} kills of {chains} priors")


def test_exports_that_are_killed_leave_the_version_before(start, bundle, tmp_path):
    served = tmp_path / "served"
    arguments = ["export", bundle[0], served, "--name", "model", "--version", 1, "--force"]
    seconds = finish(start, *arguments)

    def check():
        written = serving.read_export(served / "model" / "1")
        assert written["parity"]
        assert (served / "model" / "1" / "saved_model.pb").stat().st_size > 0

    for number in range(round(0.2 * KILLS)):
        killed(start, random.Random(number).uniform(0.1, 1.0) * seconds, *arguments)
        check()
    finish(start, *arguments)
    assert sorted(path.name for path in (served / "model").iterdir()) == ["1"]


def test_reports_that_are_killed_leave_the_report_before(start, bundle, tmp_path):
    out = tmp_path / "report"
    arguments = ["compare", bundle[0], "--data", DATA, "--limit", 8, "--resamples", 200, "--out", out, "--force"]
    seconds = finish(start, *arguments)
    before = sorted(path.name for path in out.rglob("*"))
    for number in range(round(0.2 * KILLS)):
        killed(start, random.Random(number).uniform(0.1, 1.0) * seconds, *arguments)
        assert sorted(path.name for path in out.rglob("*")) == before
        json.loads((out / "compare.json").read_text())
        assert (out / "report.html").read_text().rstrip().endswith("</html>")
    finish(start, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
