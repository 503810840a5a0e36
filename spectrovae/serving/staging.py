"""Folders that appear whole: made in a hidden one beside, then renamed; what a killed process left is cleared."""

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def staged(home: Path, version: str, *, force: bool) -> Iterator[Path]:
    """Yield a path to make a folder at; it becomes ``home/version`` when the block ends well.

    The hidden folder lies beside ``home``, so that a server polling ``home`` cannot see it, and on the same disk for
    the rename.

    Args:
        force: replace ``home/version``. It and the new one change places in one step where the system can (Linux);
            elsewhere it is missing for a moment.

    Raises:
        OSError: the folder cannot be written, or ``home/version`` has appeared meanwhile.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    _clear(home)
    with _own_folder(home) as folder:
        new, old = folder / "new", folder / "old" / version
        yield new
        home.mkdir(exist_ok=True)
        target = home / version
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


@contextlib.contextmanager
def _own_folder(home: Path) -> Iterator[Path]:
    """A hidden folder beside ``home``, locked for as long as this process lives and removed at the end."""
    folder = Path(tempfile.mkdtemp(dir=home.parent, prefix=_prefix(home)))
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _clear(home: Path) -> None:
    """Remove the folders of exports that were killed; a version they had taken away goes back first."""
    for folder in home.parent.glob(f"{_prefix(home)}*"):
        with contextlib.suppress(FileNotFoundError), _locked(folder) as nobodys:
            # One made just now may be about to be locked.
            if nobodys and time.time() - folder.stat().st_mtime > 60.0:
                for old in folder.glob("old/*"):
                    if not (home / old.name).exists():
                        os.rename(old, home / old.name)
                shutil.rmtree(folder, ignore_errors=True)


def _prefix(home: Path) -> str:
    return f".{home.name}~"  # no name of a model holds ~


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which ends with this process at the latest; whether there is one and it was free."""
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:  # another's, or a file system without locks
            held = False
        yield held
    finally:
        os.close(handle)


def _exchange(first: Path, second: Path) -> bool:
    """Let two folders change places in one step (renameat2(2), Linux); whether the system can."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    return call is not None and call(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0
