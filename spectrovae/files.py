"""Write files and folders so that a reader never sees half of one, and so that two writers never meet.

What is written here is on the disk before it takes its name: file and folder are synchronised, so that a power cut
leaves the old file or the new one.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectrovae.errors import OF_THE_PROCESS, InputError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".spectrovae-"
"""How the names of files begin that are being written."""
LOCK = ".spectrovae.lock"
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
        if error.errno in OF_THE_PROCESS:
            raise
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
    handle = None
    try:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
    except OSError as error:
        # A file system without it, or Windows, which opens no folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def locked(folder: str | os.PathLike, purpose: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock: no other process writes there meanwhile. One thread may hold it more than once.

    The lock is a file :data:`LOCK` in the folder, held by flock(2), so it ends with its process. A folder that had to
    be made for it is removed again where it is left empty.

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
                handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
                if _lock(handle, path):
                    with contextlib.suppress(OSError):  # a full disk: others do not learn the name
                        os.truncate(handle, 0)
                        os.write(handle, f"{purpose}, process {os.getpid()} on {socket.gethostname()}".encode())
                    return handle
                holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
                os.close(handle)
                if time.monotonic() >= until and path.exists():
                    raise InputError(f"{folder} is in use by {holder}; wait for it to end, or choose another folder")
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


# Folders that are replaced in one step


def check_output(out: str | os.PathLike, *, force: bool, mark: str) -> Path:
    """The real path of a result's folder; raises what :func:`new_folder` would, before a long computation is begun.

    Raises:
        InputError: as :func:`new_folder`.
    """
    given = out
    with writing(given):
        out = Path(os.path.realpath(out))
        if Path.cwd().is_relative_to(out):
            raise InputError(
                f"{given} is the current folder or holds it, and is replaced as one: go to another folder, or choose "
                "another path"
            )
        if (os.path.lexists(out) or os.path.exists(given)) and not out.is_dir():
            raise InputError(f"{given} is a file, and a folder is to be written there: choose another path")
        above = next(path for path in (out, *out.parents) if os.path.lexists(path))
        if not above.is_dir():
            raise InputError(f"cannot write {given}: {above} is a file; choose another path")
        for folder in (above, out.parent) if above == out else (above,):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        clear_killed(out)
        if out.is_mount():
            raise InputError(f"{given} is a mount point, which cannot be renamed: choose a folder in it")
        if not out.is_dir() or not any(out.iterdir()):
            return out
        if not force:
            raise InputError(
                f"{given} exists and is not empty: choose another folder, or replace it with --force (force=True)"
            )
        if not (out / mark).is_file():
            raise InputError(
                f"{given} holds no {mark}, so it is not an earlier result and is not replaced: choose another folder"
            )
    return out


@contextlib.contextmanager
def new_folder(out: str | os.PathLike, *, force: bool, mark: str) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``out`` when the block ends well, and is removed when not.

    Args:
        out: the folder to make; where it is a link, what it points to. An existing one is refused unless it is empty.
        force: replace an existing folder, if it is an earlier result: one that holds ``mark``.
        mark: name of the file by which an earlier result is known.

    Raises:
        InputError: ``out`` may not be replaced (a file, another folder, the current folder), or cannot be written.
        StorageError: the disk is full, or fails.
    """
    with replacing_folder(check_output(out, force=force, mark=mark), force=True) as folder:
        yield folder


@contextlib.contextmanager
def replacing_folder(target: Path, *, force: bool, beside: Path | None = None) -> Iterator[Path]:
    """Yield an empty hidden folder that becomes ``target`` when the block ends well, and is removed when not.

    Args:
        force: replace ``target``. It and the new folder change places in one step where the system can (Linux);
            elsewhere it is missing for a moment, and the next writer puts it back if this one is killed then.
        beside: where the hidden folder lies, by default beside ``target``. Must be on the same disk.

    Raises:
        InputError, StorageError: as :func:`writing`; also where ``target`` has appeared meanwhile, without ``force``.
    """
    beside = target if beside is None else beside
    with writing(target):
        beside.parent.mkdir(parents=True, exist_ok=True)
        clear_killed(target, beside)
        with _hidden_folder(beside) as folder:
            new, old = folder / "new", folder / "old" / target.name
            new.mkdir()
            yield new
            for path, _, names in os.walk(new):
                for name in names:
                    synchronise(os.path.join(path, name))
                synchronise(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (force and target.exists()):
                os.rename(new, target)
            elif not _exchange(new, target):
                old.parent.mkdir()
                os.rename(target, old)
                try:
                    os.rename(new, target)
                except BaseException:
                    os.rename(old, target)
                    raise
            synchronise(target.parent)


def clear_killed(target: Path, beside: Path | None = None) -> None:
    """Remove the hidden folders of killed writers of ``target``; what they had taken away goes back first."""
    beside = target if beside is None else beside
    name = re.compile(re.escape(_prefix(beside)) + "[0-9a-f]{12}")
    for entry in os.listdir(beside.parent) if beside.parent.is_dir() else ():
        folder = beside.parent / entry
        if name.fullmatch(entry) and not folder.is_symlink():
            handle, free = _flock(folder)
            try:
                if free:
                    for old in folder.glob("old/*"):
                        if not (target.parent / old.name).exists():
                            os.rename(old, target.parent / old.name)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                if handle is not None:
                    os.close(handle)


@contextlib.contextmanager
def _hidden_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder, locked for as long as this process lives and removed at the end."""
    while True:
        folder = beside.parent / f"{_prefix(beside)}{secrets.token_hex(6)}"
        folder.mkdir()
        handle, free = _flock(folder)
        if free is not False and folder.exists():  # else another process took it for that of a killed one
            break
        if handle is not None:
            os.close(handle)
    try:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)


def _prefix(beside: Path) -> str:
    return f"{TEMPORARY}{hashlib.sha256(os.fsencode(beside.name)).hexdigest()[:12]}-"


def _flock(folder: Path) -> tuple[int | None, bool | None]:
    """(open handle, whether its lock was free and is now held); None for the latter where there are no locks."""
    if fcntl is None:
        return None, None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None, False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle, True
    except OSError as error:
        return handle, False if error.errno in (errno.EAGAIN, errno.EACCES) else None


def _exchange(first: Path, second: Path) -> bool:
    """Let two folders change places in one step (renameat2(2), Linux); whether the system can."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    return call is not None and call(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON (no NaN, no infinity), whole or not at all.

    Raises:
        InputError: a value that JSON does not have.
    """
    write_text(path, json_text(path, value) + "\n")


def json_text(path: str | os.PathLike, value: Any) -> str:
    """``value`` as indented JSON; the path is for the message of :func:`write_json`'s error."""
    try:
        return json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"cannot write {path}: {error}; give numbers, text, lists and objects of them") from error


def as_json(value: Any) -> Any:
    """``value`` as JSON can hold it: NumPy's numbers and arrays as numbers and lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return as_json(value.tolist()) if hasattr(value, "tolist") else str(value)


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
