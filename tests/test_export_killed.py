"""An export that is killed leaves no version, or a whole one; what it was to replace stays until then."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from killing import killed_at
from test_export import make_codec, noise

from spectrovae import files, serving
from spectrovae.errors import InputError, StorageError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and locks")


def stage(home, content: str, force: bool = True) -> None:
    with files.replacing_folder(home / "1", force=force, beside=home) as folder:
        (folder / "saved_model.pb").write_text(content)


def content(home) -> str | None:
    """What a server polling the folder loads."""
    versions = [entry.name for entry in home.iterdir()] if home.exists() else []
    assert set(versions) <= {"1"}
    return (home / "1" / "saved_model.pb").read_text() if versions else None


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])
def test_killed_before_any_file_operation(tmp_path, monkeypatch, before, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    call, killed, seen = 0, True, []
    while killed:
        home = tmp_path / str(call) / "digits"
        home.parent.mkdir()
        if before:
            stage(home, before)
        with killed_at(call, home.parent) as state:
            stage(home, "new")
        killed = state.killed
        seen.append(content(home))
        # The next export clears what was left, and puts back a version that was taken away.
        files.clear_killed(home / "1", home)
        assert not list(home.parent.glob(".*"))
        assert content(home) in ((before, "new") if seen[-1] is None else (seen[-1],))
        if before:
            assert content(home) is not None
        call += 1
    assert seen[0] == before
    assert seen[-1] == "new"
    if exchange and before and files._exchange(tmp_path / "0", tmp_path / "1"):
        assert set(seen) == {"old", "new"}  # never missing


def test_an_export_at_work_is_not_cleared(tmp_path):
    home = tmp_path / "digits"
    code = (
        "import sys, pathlib; from spectrovae import files\n"
        "with files.replacing_folder(pathlib.Path(sys.argv[1]) / '1', force=False, beside=pathlib.Path(sys.argv[1])):\n"
        "    print('here', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "here\n"
        (left,) = tmp_path.glob(".*")
        files.clear_killed(home / "1", home)
        assert left.exists()
        other.send_signal(signal.SIGKILL)
    assert left.exists()
    files.clear_killed(home / "1", home)
    assert not left.exists()


def test_a_replaced_version_comes_back_when_the_new_one_cannot_be_put_in_place(tmp_path, monkeypatch):
    home = tmp_path / "digits"
    stage(home, "old")
    rename = os.rename

    def failing(source, target):
        if os.path.basename(source) == "new":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(StorageError, match="the disk is full"):
        stage(home, "new")
    assert content(home) == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits"]


def test_two_exports_of_one_version_do_not_mix(tmp_path):
    home = tmp_path / "digits"

    def overtaken():
        with files.replacing_folder(home / "1", force=False, beside=home) as folder:
            stage(home, "first", force=False)
            (folder / "saved_model.pb").write_text("second")

    with pytest.raises(InputError, match="not empty|exists"):
        overtaken()
    assert content(home) == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits"]


EXPORTS = """
import os, sys, time
from spectrovae.serving import saved_model
from spectrovae.codec import Codec
for line in sys.stdin:
    # TensorFlow has been imported here, but has not started any of its threads, which a fork would lose.
    bundle, folder, version, delay = line.split()
    ready, child = os.pipe(), os.fork()
    if child == 0:
        codec = Codec.load(bundle)
        os.write(ready[1], b"x")
        saved_model.export(codec, folder, name="digits", version=int(version), force=True, check=False)
        os._exit(0)
    os.read(ready[0], 1)
    started = time.monotonic()
    ended, status = 0, 0
    while not ended and time.monotonic() - started < float(delay):
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, 9)
        _, status = os.waitpid(child, 0)
    print(time.monotonic() - started, os.waitstatus_to_exitcode(status), flush=True)
"""


def test_sigkill(tmp_path):
    """At fifty moments: tests/nightly/test_exact_resume.py."""
    check_kills(4, tmp_path)


def check_kills(kills, tmp_path):
    """SIGKILL of exports of new versions and of exports that replace one by another model's, at random moments."""
    waveform = noise(2, 700)
    expected = {}
    for seed, name in enumerate(("first", "second")):
        codec = make_codec("vae")
        codec.decoder.trainable_weights[-1].assign_add([float(seed)])
        codec.info["labels"] = [name]
        codec.save(tmp_path / name)
        expected[name] = codec.reconstruct(waveform)
    assert np.abs(expected["first"] - expected["second"]).max() > 0.01
    served = tmp_path / "served"
    known: dict = {}

    def check():
        """Every version loads, and is wholly the one model or the other."""
        for version in (served / "digits").glob("*") if served.exists() else ():
            assert version.name.isdecimal()
            inode = version.stat().st_ino
            if known.get(version.name) != inode:
                loaded = tf.saved_model.load(str(version))
                (label,) = serving.read_export(version)["labels"]
                description = loaded.signatures["describe"](request=tf.constant([""]))["description"].numpy()[0]
                assert json.loads(description)["labels"] == [label]
                found = loaded.signatures["serving_default"](waveform=tf.constant(waveform))["waveform"]
                np.testing.assert_allclose(found, expected[label], atol=1e-3)
                known[version.name] = inode

    with subprocess.Popen(
        [sys.executable, "-c", EXPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as exports:

        def export(name: str, version: int, delay: float) -> tuple[float, int]:
            print(tmp_path / name, served, version, delay, file=exports.stdin, flush=True)
            seconds, status = exports.stdout.readline().split()
            check()
            return float(seconds), int(status)

        export("first", 1, 600.0)
        seconds, status = export("second", 2, 600.0)
        assert status == 0
        random, statuses, replaced = np.random.default_rng(0), [], 0
        for kill in range(kills):
            name = ("first", "second")[kill % 2]
            version = 1 if kill % 4 < 2 else 3 + kill
            before = known["1"]
            took, status = export(name, version, random.uniform(0.0, 1.1 * seconds))
            if status == 0:
                seconds = took  # of late, whatever else the machine does
            statuses.append(status)
            assert (served / "digits" / "1").is_dir()
            replaced += known["1"] != before
        exports.stdin.close()
    assert set(statuses) <= {0, -signal.SIGKILL}
    assert statuses.count(-signal.SIGKILL) >= kills // 2
    assert kills < 50 or list(served.glob(f"{files.TEMPORARY}*"))  # so there was something half-written to see
    codec = make_codec("vae")
    serving.export(codec, served, name="digits", check=False)
    assert not list(served.glob(f"{files.TEMPORARY}*"))
