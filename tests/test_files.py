"""Whole files and locks: what a reader and a second writer see."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from spectrovae import files
from spectrovae.errors import InputError, StorageError

HOLD = """
import sys, time
from spectrovae import files
with files.locked(sys.argv[1], "a first writer"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of ``tmp_path / "out"`` until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path, other):
    refused = pytest.raises(InputError, match=f"being written by a first writer, process {other.pid} on ")
    with refused, files.locked(tmp_path / "out", "a second writer"):
        pass
    other.stdin.close()
    with files.locked(tmp_path / "out", "a second writer", wait=30.0):
        assert (tmp_path / "out" / files.LOCK).is_file()
    assert not (tmp_path / "out" / files.LOCK).exists()


def test_a_lock_ends_with_its_process(tmp_path, other):
    other.kill()
    other.wait()
    with files.locked(tmp_path / "out", "a second writer"):
        pass


def test_a_thread_may_hold_a_lock_twice_and_another_thread_waits(tmp_path):
    inside, order = threading.Event(), []

    def second():
        inside.wait()
        with files.locked(tmp_path / "out", "second"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with files.locked(tmp_path / "out", "first"), files.locked(tmp_path / "out", "first, again"):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_leaves_a_folder_with_files_and_removes_one_it_made(tmp_path):
    with files.locked(tmp_path / "a" / "b", "writing"):
        (tmp_path / "a" / "kept.txt").write_text("kept")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept.txt"]


def fail(temporary, number):
    temporary.write_text("half")
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageError), (errno.EROFS, InputError)])
def test_what_the_system_refuses_is_one_line_and_leaves_the_old_file(tmp_path, number, kind):
    path = tmp_path / "state.json"
    files.write_text(path, "old")
    with pytest.raises(kind, match="cannot write .*state.json"), files.replacing(path) as temporary:
        fail(temporary, number)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_only_half_written_files_are_cleared(tmp_path):
    (tmp_path / ".bashrc").write_text("mine")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / f"{files.TEMPORARY}0.npz").write_text("half")
    files.clear_temporary(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".bashrc", ".ipynb_checkpoints"]


def test_a_new_file_obeys_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "new.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == 0o640
