"""What the command line needs of the process it runs in: standard streams, caches of libraries, Keras's backend."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from spectrovae.errors import InputError

_KERAS_DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


def prepare_streams() -> None:
    """Let any text be printed, also file names that are not UTF-8 on terminals that are not; open closed streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened gets this number, and with it what libraries print
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def prepare_libraries() -> None:
    """Set what TensorFlow, Keras, Matplotlib and Numba read from the environment when they are imported.

    Raises:
        InputError: Keras's backend is not TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    os.environ["KERAS_BACKEND"] = backend  # keras.json may name another
    if backend != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND is {backend!r}, and the commands need 'tensorflow'; unset it (models, layers and losses "
            "can be trained under JAX from Python)"
        )
    home = Path.home() if os.environ.get("HOME") else None
    elsewhere = set()
    if home is None or not _can_be_written(home):
        elsewhere = {"MPLCONFIGDIR", "NUMBA_CACHE_DIR", "KERAS_HOME"} - set(os.environ)
    settings = os.environ.get("KERAS_HOME") or (home and home / ".keras")
    if settings and _changes_keras(Path(settings) / "keras.json"):
        elsewhere.add("KERAS_HOME")
    if elsewhere:
        temporary = tempfile.mkdtemp(prefix="spectrovae-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        os.environ |= {name: os.path.join(temporary, name.lower()) for name in elsewhere}


def _can_be_written(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not say it
            return True
    except OSError:
        return False


def _changes_keras(path: Path) -> bool:
    """Whether a keras.json sets other numbers or layouts than models are made for."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return any(settings.get(name, value) != value for name, value in _KERAS_DEFAULTS.items())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError):
        return True
