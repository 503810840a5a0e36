"""Write files so that a reader never sees half of one, and so that two writers never meet.

What is written here is on the disk before it takes its name: file and folder are synchronised, so that a power cut
leaves the old file or the new one.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectrovae.errors import InputError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".spectrovae-"
"""How the names of files begin that are being written."""
LOCK = ".lock"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}
_held: dict[str, threading.RLock] = {}
_depth: dict[str, int] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Within this block, what the operating system refuses becomes an error that names ``path``.

    Raises:
        StorageError: the disk is full, or fails.
        InputError: the path cannot be written, which another path would mend.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*_FULL, errno.EIO):
            reason = _FULL.get(error.errno or 0, error.strerror or str(error))
            raise StorageError(f"cannot write {path}: {reason}; make room and run the same command again") from error
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a folder you can write to") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` with the same suffix; rename it to ``path`` when the block ends well.

    Raises:
        InputError, StorageError: as :func:`writing`.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(6)}{path.suffix}"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
            yield temporary
            synchronise(temporary)
            os.replace(temporary, path)
            synchronise(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def clear_temporary(folder: Path) -> None:
    """Remove what killed writers left half-written in a folder; nothing else is touched."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_file() or leftover.is_symlink():
            leftover.unlink(missing_ok=True)


def synchronise(path: str | os.PathLike) -> None:
    """Have a file, or the names in a folder, on the disk when this returns (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):  # a file system without it
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: str | os.PathLike, purpose: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock: no other process writes there meanwhile. One thread may hold it more than once.

    The lock is a file ``.lock`` in the folder, held by flock(2), so it ends with its process. A folder that had to be
    made for it is removed again where it is left empty.

    Args:
        purpose: what is being done, such as ``"spectrovae fit"``, for whoever is refused.
        wait: seconds to wait for another writer.

    Raises:
        InputError: another process holds it; the message says which.
    """
    key = os.path.realpath(folder)
    with _guard:
        lock = _held.setdefault(key, threading.RLock())
    with lock:
        if _depth.get(key):
            _depth[key] += 1
            try:
                yield
            finally:
                _depth[key] -= 1
            return
        made = _make(Path(key))
        try:
            handle = _acquire(Path(key), purpose, wait)
            _depth[key] = 1
            try:
                yield
            finally:
                _depth[key] = 0
                if handle is not None:
                    with contextlib.suppress(OSError):
                        os.unlink(Path(key) / LOCK)
                    os.close(handle)
        finally:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()  # refused where something lies in it


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; the new ones, deepest first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return made


def _acquire(folder: Path, purpose: str, wait: float) -> int | None:
    """An open, locked file; None where the system knows no locks."""
    if fcntl is None:
        return None
    path, until = folder / LOCK, time.monotonic() + wait
    while True:
        try:
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
                if _lock(handle, path):
                    os.truncate(handle, 0)
                    os.write(handle, f"{purpose}, process {os.getpid()} on {socket.gethostname()}".encode())
                    return handle
                holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
                os.close(handle)
                if time.monotonic() >= until and path.exists():
                    raise InputError(
                        f"{folder} is being written by {holder}; wait for it to end, or choose another folder"
                    )
                time.sleep(0.05)
                continue
            folder.mkdir(parents=True, exist_ok=True)  # the writer before has removed it, for it was empty
        except OSError as error:
            with writing(folder):
                raise error


def _lock(handle: int, path: Path) -> bool:
    """Take the lock of an open file; whether it was free and the file is still the one at ``path``."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # a file system without locks
    return path.exists() and os.fstat(handle).st_ino == os.stat(path).st_ino


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON (no NaN, no infinity), whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
