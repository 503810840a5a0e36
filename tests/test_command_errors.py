"""Each command as a new user meets it on a bad day: one line that says what is wrong, and no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrovae import cli, environment, files, models
from spectrovae.cli import main
from spectrovae.commands.options import plain
from spectrovae.data.splits import SPLIT_RULES
from spectrovae.errors import InputError, ServerError, StorageError

ROOT = Path(__file__).resolve().parents[1]
TAIL = {
    "reconstruct": ["IN", "--out", "OUT"],
    "transfer": ["IN", "OUT.wav"],
    "convert": ["IN", "--speaker", "x", "--out", "OUT"],
    "generate": ["--out", "OUT"],
    "interpolate": ["IN", "IN", "--out", "OUT"],
    "verify": [],
    "diagnose": ["--data", "IN"],
    "disentangle": ["--data", "IN"],
    "compare": ["--data", "IN", "--out", "OUT"],
    "robustness": ["--data", "IN", "--out", "OUT"],
    "latent": ["--data", "IN", "--out", "OUT"],
    "fidelity": ["--data", "IN", "--out", "OUT"],
    "listen": ["--data", "IN", "--out", "OUT"],
    "judge-conversion": ["--data", "IN", "--judge", "IN", "--out", "OUT"],
    "fit-prior": ["--data", "IN"],
    "export": ["OUT"],
}
OTHERS = (
    ["transform", "IN", "--out", "OUT"],
    ["invert", "IN", "--out", "OUT.wav"],
    ["data", "scan", "IN"],
    ["fit", "vae", "--data", "IN", "--out", "OUT"],
    ["fit", "--config", "IN", "--out", "OUT"],
    ["study", "vae", "--data", "IN", "--out", "OUT"],
    ["fit-judge", "label", "--data", "IN", "--out", "OUT"],
    ["deploy", "IN"],
    ["serve", "IN"],
    ["call", "http://127.0.0.1:9/v1/models/x", "IN", "--out", "OUT", "--retries", "0"],
)
COMMANDS = [[name, "IN", *tail] for name, tail in TAIL.items()] + list(OTHERS)


def error(capsys, *arguments, code=2):
    """The one line on standard error of a command that ends with ``code``; nothing is on standard output."""
    capsys.readouterr()
    try:
        ended = main([str(part) for part in arguments])
    except SystemExit as stopped:
        ended = stopped.code
    printed = capsys.readouterr()
    assert ended == code, printed.err
    assert "Traceback" not in printed.err
    assert not printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("spectrovae: error:")]
    assert len(lines) == 1, printed.err
    return lines[0]


@pytest.fixture
def inputs(tmp_path):
    """A path of each kind that is no sound, bundle, data set or server folder."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("this is no sound")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    return {
        "absent": tmp_path / "absent.wav", "empty folder": tmp_path / "empty", "text": tmp_path / "text.wav",
        "pipe": tmp_path / "pipe.wav", "device": tmp_path / "device.wav", "standard input": "-",
        "odd name": tmp_path / "caf\udce9\n.wav",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["absent", "empty folder", "text", "pipe", "device", "standard input", "odd name"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]).replace(" IN", ""))
def test_a_wrong_input_is_one_line(command, kind, inputs, tmp_path, capsys):
    source, out = str(inputs[kind]), str(tmp_path / "out")
    arguments = [part.replace("OUT", out) if part.startswith("OUT") else source if part == "IN" else part
                 for part in command]  # fmt: skip
    line = error(capsys, *arguments)
    assert len(line) < 700
    assert not (tmp_path / "out").exists()


def test_labels_are_not_read_from_a_pipe(inputs, tmp_path, capsys):
    soundfile.write(tmp_path / "empty" / "a.wav", np.full(400, 0.25), 8000)
    for path in (inputs["pipe"], inputs["device"], "-"):
        assert "not read" in error(capsys, "data", "scan", inputs["empty folder"], "--labels", path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "vae", "--latent-dims", "4"], "--latent-dim"),
        (["fit", "vae", "--epoch=4", "--learning-rat", "a"], "must be a number, received 'a'"),
        (["fit", "vae", "--bacht-size", "4"], "--batch-size"),
        (["fit", "vae", "--beta", "nan"], "must be a number"),
        (["fit", "vae", "--seed", "1.5"], "must be a whole number, received '1.5'"),
        (["fit", "vae", "--n-fft", "0"], "from 1 up"),
        (["fit", "vae", "--skips", "a"], "all, none"),
        (["fit", "vq-vae", "--levels", "8;5"], "whole numbers such as"),
        (["study", "vae", "--seeds", "a"], "whole numbers such as"),
        (["fidelity", "m", "--fidelities", "0.5,x"], "numbers such as"),
        (["transfer", "m", "a", "b", "--scale", "x"], "0:1.5"),
        (["generate", "m", "-n", "many"], "from 1 up"),
        (["generate", "m", "--n", "4"], "--n"),
        (["robustness", "--perturbation", "gain", "model"], "bundles come before"),
        (["fit-prior", "m", "--conditions", "label", "model"], "invalid choice: 'model'"),
        (["verify", "m", "--json", "-q"], "-q"),
        (["compare", "m", "--samples"], "expected one argument"),
        (["levitate"], "levitate"),
        ([], "COMMAND"),
        (["fit", "gan"], "gan"),
        (["serve", "x", "--rest-port", "http"], "whole number"),
    ],
)
def test_errors_of_options_name_what_was_expected(arguments, says, capsys):
    line = error(capsys, *arguments)
    assert says in line
    assert "_" not in line.replace("batch_size", "")  # no names of functions


def raising(raised):
    def run(options):
        raise raised

    return run


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (InputError("two\nlines"), 2, r"two\nlines"),
        (StorageError("full"), 1, "full"),
        (ServerError("gone"), 1, "gone"),
        (FileNotFoundError(2, "No such file", "a.wav"), 2, "a.wav: No such file"),
        (OSError(28, "No space left on device", "a.wav"), 1, "a.wav: No space left"),
        (PermissionError(13, "Permission denied", "b"), 1, "b: Permission denied"),
        (MemoryError(), 1, "out of memory"),
        (RecursionError("deep"), 1, "nested too deeply"),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates"), 1, "cannot be encoded"),
        (KeyError("x"), 1, "SPECTROVAE_DEBUG=1"),
    ],
)
def test_any_failure_is_one_line(raised, code, says, capsys, monkeypatch):
    monkeypatch.setattr("spectrovae.commands.doctor", raising(raised))
    assert says in error(capsys, "doctor", code=code)
    monkeypatch.setenv("SPECTROVAE_DEBUG", "1")
    assert main(["doctor"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_interrupted(capsys, monkeypatch):
    monkeypatch.setattr("spectrovae.commands.doctor", raising(KeyboardInterrupt()))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "spectrovae: interrupted\n"


def test_json_has_numbers_and_no_nan(capsys, monkeypatch):
    value = {"a": np.float32(0.5), "b": np.int64(3), "c": [np.nan, np.inf], "d": np.arange(2), 5: Path("x"), "e": True}
    monkeypatch.setattr("spectrovae.commands.doctor", lambda options: (value, ""))
    assert main(["doctor", "--json"]) == 0
    read = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert read == {"a": 0.5, "b": 3, "c": [None, None], "d": [0, 1], "5": "x", "e": True}
    assert files.as_json((1, {2})) == [1, [2]]
    assert plain(np.float32(1 / 3)) == "0.3333"


@pytest.mark.parametrize("backend", ["jax", "torch", "nonsense"])
def test_another_backend_is_one_line(backend, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    for command in (["doctor"], ["fit", "vae", "--data", "toy:harmonic", "--out", "x"], ["verify", "x"]):
        assert "TensorFlow" in error(capsys, *command) or "'tensorflow'" in error(capsys, *command)


def test_an_empty_backend_and_a_keras_home_of_other_numbers(tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text('{"floatx": "float64"}')
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    environment.prepare_libraries()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert os.environ["KERAS_HOME"] != str(tmp_path)


@pytest.mark.parametrize("settings", [None, {"backend": "jax"}, {"floatx": "float64"}, [], "{"])
def test_settings_of_keras_elsewhere_change_nothing(settings, tmp_path, monkeypatch):
    (tmp_path / ".keras").mkdir()
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (tmp_path / ".keras" / "keras.json").write_text(text)
    names = ("HOME", "KERAS_BACKEND", "KERAS_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
    for name in names:
        monkeypatch.setenv(name, str(tmp_path))  # put back after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    environment.prepare_libraries()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert ("KERAS_HOME" in os.environ) == (settings in ({"floatx": "float64"}, [], "{"))
    assert "MPLCONFIGDIR" not in os.environ


@pytest.mark.parametrize("home", [None, "/proc"])
def test_a_home_that_cannot_be_written_has_caches_elsewhere(home, monkeypatch):
    for name in ("HOME", "KERAS_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    environment.prepare_libraries()
    folders = {os.environ[name] for name in ("KERAS_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")}
    assert len(folders) == 3
    assert all(Path(folder).parent.is_dir() for folder in folders)


def start(*arguments, shell="", **environ):
    """The command in a process of its own; exit code and what it printed, as bytes."""
    command = [sys.executable, "-m", "spectrovae", *arguments]
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    if shell:
        command = ["bash", "-c", f'"$@" {shell}', "bash", *command]
    done = subprocess.run(command, env=own, capture_output=True, timeout=120, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_is_printed_on_any_terminal(encoding, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9-\xe4\xb8\x80.wav"
    code, _, printed = start("deploy", name, PYTHONIOENCODING=encoding, LC_ALL="C")
    assert (code, b"no exported model" in printed, printed.count(b"\n")) == (2, True, 1)


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "| head -c 0", "2>&1 | head -c 0"])
def test_closed_streams(shell):
    code, _, _ = start("--help", shell=f"{shell}; exit ${{PIPESTATUS[0]}}")
    assert code in (0, 1)
    code, _, _ = start("deploy", "/absent", shell=f"{shell}; exit ${{PIPESTATUS[0]}}")
    assert code in (1, 2)


def test_a_working_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone}; rmdir {gone}; {sys.executable} -m spectrovae deploy a"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_interrupted_while_it_is_imported():
    code = (
        "import sys, spectrovae.__main__ as command\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'spectrovae.commands': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.exit(command.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "spectrovae: interrupted\n")


def test_stereo_at_another_rate_goes_through(tmp_path, capsys):
    source = tmp_path / "stereo.wav"
    soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal((44100, 2)), 44100)
    assert main(["transform", str(source), "--sample-rate", "8000", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "reconstruction.wav").is_file()


def test_the_names_in_the_help_are_those_there_are():
    assert cli.FAMILIES.split(", ") == list(models.FAMILIES)
    assert cli.PRIORS.split(", ") == list(models.PRIORS)
    assert cli.SPLIT_RULES == SPLIT_RULES
