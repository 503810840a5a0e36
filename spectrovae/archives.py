"""Read models, arrays and JSON that anyone may have written: every defect is an ``InputError`` in one line.

Sizes are checked before anything is read, so that a small file cannot fill the memory, and only regular files are
opened, so that none can block.
"""

import contextlib
import json
import math
import os
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import h5py
import keras
import numpy as np

from spectrovae.errors import InputError

T = TypeVar("T")

MODEL_BYTES = 1 << 33
"""Largest file of a model or of arrays, in bytes."""
JSON_BYTES = 1 << 29
EXPANSION, SPARE_BYTES = 10, 1 << 26  # an archive may unpack to 10 times its size and 64 MiB; Keras and NumPy: to once
ATTEMPTS, PAUSE = 20, 0.05
MEND = "restore it from a copy or make it again"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 printable characters; its class where there is no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "".join(letter if letter.isprintable() else "?" for letter in lines[0]) if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def check_file(path: str | os.PathLike, limit: float = MODEL_BYTES) -> int:
    """Size of a regular file (or of what a link points to) in bytes.

    Raises:
        InputError: no such file, a folder, pipe or device, or more than ``limit`` bytes.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {MEND}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"cannot read {path}: expected a regular file, not a folder, pipe or device; {MEND}")
    if status.st_size > limit:
        raise InputError(f"{path} has {status.st_size} bytes, more than the {limit} that it may have; {MEND}")
    return status.st_size


def read_bytes(path: str | os.PathLike, limit: int = JSON_BYTES) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: as :func:`check_file`, or it cannot be read.
    """
    check_file(path, limit)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {MEND}") from error


def parse_json(text: bytes, path: str | os.PathLike) -> Any:
    """The value of JSON text without NaN and infinity; ``path`` is for the message.

    Raises:
        InputError: no such JSON, or nested too deeply.
    """

    def refuse(name):
        raise ValueError(f"{name} is no number of JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, allow_nan=False)  # refuses 1e999
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); {MEND}") from error
    return value


def load_model(path: str | os.PathLike) -> keras.Model:
    """A model from a ``.keras`` file.

    Raises:
        InputError: no such file, one that is damaged, would unpack to far more than its size, or holds what Keras
            refuses to load, or no model.
    """
    path = os.path.abspath(path)
    _check_archive(path)
    try:
        _check_weights(path)
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras, HDF5 and zipfile raise any, even a RuntimeError for an encrypted file
        raise InputError(f"{path} is damaged or no model: {first_line(error)}; {MEND}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{path} holds a {type(model).__name__}, expected a Keras model; {MEND}")
    return model


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        InputError: no such file, one that is damaged, that claims more than it holds, or holds pickled objects.
    """
    try:
        with open_arrays(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except InputError:
        raise
    except Exception as error:  # of zipfile, zlib, NumPy
        raise InputError(f"{path} is damaged ({first_line(error)}); {MEND}") from error


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike, limit: float = MODEL_BYTES) -> Iterator[np.lib.npyio.NpzFile]:
    """An ``.npz`` file that has been checked: it claims no more than it holds, and no pickled objects.

    Raises:
        InputError: no such file, one of more than ``limit`` bytes, or that would unpack to far more than its size.
        Exception: of many kinds, where it is damaged otherwise.
    """
    _check_archive(path, limit)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read[version](stream)
            if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{first_line(ValueError(entry.filename))} is not the array it claims to be")
    with np.load(path, allow_pickle=False) as arrays:
        yield arrays


def read_unchanged(
    describe: Callable[[], bytes],
    use: Callable[[bytes], T],
    hold: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> T:
    """What ``use`` makes of a description and the files it names, begun anew where a writer changed them meanwhile.

    An error counts once it comes twice with the same description: the first may come from a file on its way to its
    place.

    Args:
        describe: reads the description, which changes whenever any of the files does.
        use: reads the files.
        hold: keeps writers out, if it can; after a few attempts the files are read within it.

    Raises:
        InputError: as ``describe`` and ``use``, or the files never stay as they are for long enough.
    """
    failed = None
    for attempt in range(ATTEMPTS):
        error, result = None, None
        with hold() if attempt >= ATTEMPTS // 4 else contextlib.nullcontext():
            description = describe()
            try:
                result = use(description)
            except InputError as caught:
                error = caught
            same = describe() == description
        if same:
            if error is None:
                return result  # type: ignore[return-value]
            if failed == description:
                raise error
            failed = description
        time.sleep(PAUSE)
    raise InputError("the files are replaced faster than they can be read; try again when their writer has ended")


def _check_archive(path: str | os.PathLike, limit: float = MODEL_BYTES) -> None:
    size = check_file(path, limit)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); {MEND}") from error
    if unpacked > EXPANSION * size + SPARE_BYTES:
        raise InputError(f"{path} has {size} bytes and would unpack to {unpacked}; {MEND}")


def _check_weights(path: str) -> None:
    """Raise ValueError where the weights in a ``.keras`` file lie elsewhere, or claim far more room than they have."""
    sizes: list[int] = []
    elsewhere: list[str] = []  # HDF5's callbacks must not raise

    def look_at_link(name, link):
        if not isinstance(link, h5py.HardLink):
            elsewhere.append(f"{name} is a link")

    def look_at_item(name, item):
        if isinstance(item, h5py.Dataset):
            sizes.append(item.nbytes)
            if item.external or item.is_virtual:
                elsewhere.append(f"{name} lies in another file")

    with zipfile.ZipFile(path) as archive:
        if "model.weights.h5" not in archive.namelist():  # Keras would read other kinds, archives within the archive
            raise ValueError("it holds no model.weights.h5")
        for entry in archive.infolist():
            if entry.filename.endswith(".h5"):
                with archive.open(entry) as stream, h5py.File(stream, "r") as weights:
                    weights.visititems_links(look_at_link)
                    weights.visititems(look_at_item)
                if elsewhere:
                    raise ValueError(elsewhere[0])
                if sum(sizes) > EXPANSION * entry.file_size + SPARE_BYTES:
                    raise ValueError(f"{entry.filename} of {entry.file_size} bytes claims {sum(sizes)}")
