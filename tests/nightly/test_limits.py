"""A full disk, few descriptors, little memory: one line, the last good state whole, and the same command finishes."""

import contextlib
import os
import resource
import subprocess
import sys

import pytest

from spectrovae import Codec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tmpfs and resource limits")

SMALL = ["--preset", "tiny", "--duration", "0.248", "--n-fft", "128", "--hop-length", "64", "--precision", "float32"]
FIT = ["fit", "vae", "--data", "toy:harmonic?size=60", *SMALL, "--epochs", "3"]


def run(*arguments, limit=None, **environment):
    """Run a command line in a process of its own, under a resource limit (kind, value)."""
    return subprocess.run(
        [sys.executable, "-m", "spectrovae", *map(str, arguments)],
        capture_output=True, text=True, errors="replace", env={**os.environ, **environment},
        preexec_fn=(lambda: resource.setrlimit(limit[0], (limit[1], limit[1]))) if limit else None,
    )  # fmt: skip


def one_line(process, code):
    errors = [line for line in process.stderr.splitlines() if line.startswith("spectrovae: error:")]
    assert (process.returncode, len(errors)) == (code, 1), process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    return errors[0]


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory):
    """The folder of a fit without limits."""
    out = tmp_path_factory.mktemp("free") / "vae"
    process = run(*FIT, "--out", out)
    assert process.returncode == 0, process.stderr[-2000:]
    return out


def finishes(unlimited, out, *more):
    """The same command without limits ends as if there had never been any."""
    process = run(*FIT, "--out", out, *more)
    assert process.returncode == 0, process.stderr[-2000:]
    assert (out / "run" / "history.csv").read_text() == (unlimited / "run" / "history.csv").read_text()


def bytes_of(folder):
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


@contextlib.contextmanager
def mounted(folder, size):
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_full_disk(part, unlimited, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, int(part * sum(bytes_of(unlimited)))):
        line = one_line(run(*FIT, "--out", disk / "vae"), 1)
        assert "the disk is full" in line or "No space left" in line, line
        if (disk / "vae" / "codec.json").exists():
            Codec.load(disk / "vae", verify=True)
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        finishes(unlimited, disk / "vae")


@pytest.mark.parametrize("part", [0.2, 0.9])
def test_files_may_not_be_large(part, unlimited, tmp_path):
    limit = resource.RLIMIT_FSIZE, int(part * max(bytes_of(unlimited)))
    one_line(run(*FIT, "--out", tmp_path / "vae", limit=limit), 1)
    finishes(unlimited, tmp_path / "vae")


@pytest.mark.parametrize("descriptors", [6, 8, 10, 12, 16, 32])
def test_few_descriptors(descriptors, tones, tmp_path):
    """Of recordings, which are read by more than one thread."""
    fit = ["fit", "vae", "--data", tones, *SMALL, "--epochs", "1", "--out", tmp_path / "vae"]
    process = run(*fit, limit=(resource.RLIMIT_NOFILE, descriptors))
    if process.returncode:
        one_line(process, process.returncode)
        assert run(*fit).returncode == 0
    Codec.load(tmp_path / "vae", verify=True)


@pytest.mark.parametrize("gigabytes", [2.5, 4.0])
def test_little_memory(gigabytes, unlimited, tmp_path):
    """TensorFlow may end its process by a signal: what is on disk is whole all the same."""
    out = tmp_path / "vae"
    run(*FIT, "--out", out, limit=(resource.RLIMIT_AS, int(gigabytes * 2**30)))
    if (out / "codec.json").exists():
        Codec.load(out, verify=True)
    finishes(unlimited, out, "--resume")
