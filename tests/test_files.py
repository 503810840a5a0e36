"""Whole files and locks: what a reader and a second writer see."""

import errno
import os
import subprocess
import sys
import threading

import pytest
from killing import killed_at

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
    refused = pytest.raises(InputError, match=f"in use by a first writer, process {other.pid} on ")
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


def test_a_lock_takes_nothing_that_is_not_its_own(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").write_text("of another program")
    with files.locked(tmp_path, "writing"):
        pass
    (tmp_path / files.LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="cannot write"), files.locked(tmp_path, "writing"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / ".lock").read_text() == "of another program"


def test_a_lock_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with files.locked(tmp_path / "out", "writing"):
        pass
    assert os.listdir(tmp_path) == []


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


# Folders of results


def test_new_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"

    def interrupted():
        with files.new_folder(out, force=False, mark="mark") as folder:
            (folder / "mark").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(out.parent.iterdir()) == []
    out.mkdir()  # an empty folder is in nobody's way
    with files.new_folder(out, force=False, mark="mark") as folder:
        (folder / "mark").write_text("first")
        assert list(out.iterdir()) == []
    with pytest.raises(InputError, match="force"), files.new_folder(out, force=False, mark="mark"):
        pass
    with files.new_folder(out, force=True, mark="mark") as folder:
        (folder / "mark").write_text("second")
    assert (out / "mark").read_text() == "second"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_force_does_not_replace_what_is_not_a_result(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InputError, match="not an earlier result"),
        files.new_folder(tmp_path, force=True, mark="mark"),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()
    with (
        pytest.raises(InputError, match="is a file"),
        files.new_folder(tmp_path / "thesis.tex", force=True, mark="mark"),
    ):
        pass


def result(out, text, **options):
    """A result of one file, ``mark``."""
    with files.new_folder(out, **{"force": True, "mark": "mark", **options}) as folder:
        (folder / "mark").write_text(text)


@pytest.mark.parametrize("out", [".", "..", "", "../here", "link"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, out):
    here = tmp_path / "here"
    result(here, "old")
    (here / "link").symlink_to(here)
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="current folder"):
        result(out, "new")
    assert (tmp_path / "here" / "mark").read_text() == "old"


def test_a_result_in_a_deleted_current_folder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises((InputError, StorageError)):
        result("out", "new")


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    result(tmp_path / "disk" / "results", "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "results")
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "more")
    for name in ("out", "new"):
        result(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name / "mark").read_text() == name
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["more", "results"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError):
        result(tmp_path / "loop", "new")
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize(
    "out", ["file", "file/below", "file/below/deeper", "fifo", "stream", "read-only/out", "/proc/out", "/"]
)
def test_where_no_folder_can_be_is_known_beforehand(tmp_path, monkeypatch, out):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "stream").symlink_to(f"/proc/self/fd/{os.pipe()[1]}")
    (tmp_path / "read-only").mkdir(mode=0o555)
    monkeypatch.setattr(os, "access", lambda path, mode: "read-only" not in str(path) and "proc" not in str(path))
    with pytest.raises(InputError) as refused:
        files.check_output(tmp_path / out, force=True, mark="mark")
    assert len(str(refused.value).splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["[a]*", "a" * 250, "ä ö", "caf\udce9", "a~b", "-f", " "])
def test_any_name_can_be_replaced_and_only_its_own_leftovers_are_cleared(tmp_path, name):
    result(tmp_path / "other", "other")
    result(tmp_path / name, "old")
    mine = tmp_path / f"{files.TEMPORARY}mine"
    (mine / "old" / name).mkdir(parents=True)
    result(tmp_path / name, "new")
    assert (tmp_path / name / "mark").read_text() == "new"
    assert mine.is_dir()
    assert len(list(tmp_path.iterdir())) == 3


def test_force_does_not_follow_a_mark_that_is_a_folder(tmp_path):
    (tmp_path / "out" / "mark").mkdir(parents=True)
    with pytest.raises(InputError, match="not an earlier result"):
        result(tmp_path / "out", "new")


def test_a_full_disk_leaves_the_old_result(tmp_path):
    result(tmp_path / "out", "old")

    def full():
        with files.new_folder(tmp_path / "out", force=True, mark="mark"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="the disk is full"):
        full()
    assert (tmp_path / "out" / "mark").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_an_error_of_the_block_is_not_swallowed(tmp_path):
    def missing():
        with files.new_folder(tmp_path / "out", force=True, mark="mark"):
            raise KeyError("no such thing")

    with pytest.raises(KeyError):
        missing()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])
def test_killed_before_any_file_operation_a_result_is_the_old_or_the_new(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    call, killed, seen = 0, True, []
    while killed:
        home = tmp_path / str(call)
        home.mkdir()
        result(home / "out", "old")
        with killed_at(call, home) as state:
            result(home / "out", "new")
        killed = state.killed
        seen.append((home / "out").exists())
        with pytest.raises(InputError, match="--force"):  # the next writer puts back what was taken away
            files.check_output(home / "out", force=False, mark="mark")
        assert os.listdir(home) == ["out"]
        assert (home / "out" / "mark").read_text() in ("old", "new")
        call += 1
    assert (home / "out" / "mark").read_text() == "new"
    assert all(seen) == exchange
