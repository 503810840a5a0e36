"""Fixtures shared by all tests: real recordings, fresh Python processes, repeatable randomness."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would take turns on it
    for _pool in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_pool, "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell, where Ctrl-C is not for it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import keras
import numpy as np
import pytest
import soundfile
from browser import Browser, find_chromium
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "spectrovae",
    deadline=None,
    max_examples=15,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("spectrovae")


@pytest.fixture(autouse=True)
def _same_seed():
    """Every test starts from the same random state, whichever tests ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def recordings():
    """A toy set of a quarter of a second each; a module that needs another has its own."""
    from spectrovae.data import Recordings

    return Recordings.open("toy:harmonic?size=60", sample_rate=8000, samples=1984)


@pytest.fixture(scope="module")
def representation():
    """Small, for ``recordings``."""
    from spectrovae.representations import LogSTFT

    return LogSTFT(8000, n_fft=128, hop_length=64, phase_iterations=2)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """``built_once(name, build)``: a folder that ``build(folder)`` fills once in a test run, for all of its processes.
    Not to be changed: tests copy what they change."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def once(name: str, build: Callable[[Path], object]) -> Path:
        folder = shared / name
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                making = shared / f"{name}.making"
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir()
                keras.utils.set_random_seed(0)
                build(making)
                keras.utils.set_random_seed(0)
                making.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def tones(built_once):
    """120 recordings of three pitches (labels) and two timbres (speakers): see ``tones.write_tones``."""
    from tones import write_tones

    return built_once("tones", write_tones)


@pytest.fixture(scope="session")
def trained(built_once, tones):
    """``trained(family)``: the bundle of a tiny model that the command line fitted to ``tones``. Not to be changed."""
    from spectrovae.cli import main

    def trained(family: str) -> Path:
        def build(folder: Path) -> None:
            size = ["--duration", "0.2", "--preset", "tiny", "--epochs", "1", "--precision", "float32"]
            assert main(["fit", family, "--data", str(tones), "--out", str(folder / family), *size]) == 0

        return built_once(f"trained-{family}", build) / family

    return trained


@pytest.fixture(scope="session")
def trained_judge(built_once, tones):
    """A judge of the pitches of ``tones``. Not to be changed."""
    from tones import SAMPLES

    from spectrovae.data import Recordings
    from spectrovae.training import fit_judge

    recordings = Recordings.open(tones, samples=SAMPLES)
    folder = built_once(
        "judge", lambda folder: fit_judge("label", recordings, folder / "pitches", epochs=15, batch_size=8)
    )
    return folder / "pitches"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that ``SPECTROVAE_DATA`` names. Unset skips the test; set to something missing fails it."""
    if "SPECTROVAE_DATA" not in os.environ:
        pytest.skip("needs recordings: set SPECTROVAE_DATA to a folder that holds fsdd/recordings")
    folder = Path(os.environ["SPECTROVAE_DATA"])
    if not folder.is_dir():
        pytest.fail(f"SPECTROVAE_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def fsdd_folder(data_folder) -> Path:
    """The recordings of the Free Spoken Digit Dataset."""
    folder = data_folder / "fsdd" / "recordings"
    if not any(folder.glob("*.wav")):
        pytest.fail(f"SPECTROVAE_DATA is set, but {folder} holds no wav files")
    return folder


@pytest.fixture(scope="session")
def speech(fsdd_folder) -> np.ndarray:
    """Twelve spoken digits of six speakers at 8 kHz: float32 (12, 8064), silence after each."""
    speakers = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    clips = np.zeros((12, 8064), np.float32)
    for row in range(12):
        clip, rate = soundfile.read(fsdd_folder / f"{row % 10}_{speakers[row % 6]}_{row}.wav", dtype="float32")
        assert rate == 8000
        clips[row, : len(clip)] = clip[:8064]
    return clips


@pytest.fixture(scope="session")
def speech_features(speech):
    """(72, 64, 16, 1): spectrograms of spoken digits in [0, 1]."""
    from spectrovae.representations import LogSTFT

    features = LogSTFT(8000, n_fft=128, hop_length=64)(speech)[:, :, :96].numpy()
    return np.concatenate(np.split(features, 6, axis=2))


@pytest.fixture(scope="session")
def fresh_process():
    """Run Python code in a new process, where only that code has imported anything; return its output."""

    def run(code: str, *arguments, **environment: str) -> str:
        finished = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr[-4000:]
        return finished.stdout

    return run


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium: see ``browser.Browser``. Without one the test is skipped, or fails where CI has set
    ``SPECTROVAE_REQUIRE_CHROMIUM``."""
    missing = pytest.fail if os.environ.get("SPECTROVAE_REQUIRE_CHROMIUM", "0") not in ("", "0") else pytest.skip
    program = find_chromium()
    if program is None:
        missing("needs Chromium: apt-get install chromium, or set SPECTROVAE_CHROMIUM to one")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("needs playwright: pip install 'spectrovae[test]'")
    # The loop of the synchronous interface ends with the module: others in this process may run their own.
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program)
        yield Browser(chromium)
        chromium.close()
