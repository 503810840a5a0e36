"""Where commands write: no output is another's or an input's, and nothing is computed before that is certain."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrovae import models, representations
from spectrovae.cli import main
from spectrovae.codec import Codec
from spectrovae.commands.outputs import LONGEST, check_folder, file_name, free_path, free_paths, output_names
from spectrovae.errors import InputError


@pytest.fixture(scope="module")
def bundle(built_once):
    """An untrained VAE at 4 kHz."""

    def build(folder):
        representation = representations.LogSTFT(4000, n_fft=64, hop_length=32, phase_iterations=1)
        model = models.FAMILIES["vae"](representation.feature_shape(480), preset="tiny")
        Codec(representation, model.encoder, model.decoder, family="vae", prior=model.prior).save(folder / "vae")

    return built_once("untrained-bundle", build) / "vae"


@pytest.fixture
def classes(tmp_path):
    """dog/000.wav, cat/000.wav and bird/000.wav of different levels."""
    files = []
    for level, label in enumerate(("dog", "cat", "bird"), 1):
        files.append(tmp_path / label / "000.wav")
        files[-1].parent.mkdir()
        soundfile.write(files[-1], np.full(500, 0.1 * level), 4000)
    return files


def run(capsys, *arguments):
    """Exit code, standard output, and the error line if there is one."""
    capsys.readouterr()
    code = main([str(part) for part in arguments])
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("spectrovae: error:")]
    assert len(errors) == (1 if code else 0), printed.err
    return code, printed.out, errors[0] if errors else ""


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["a/take.wav"], ["take.wav"]),
        (["dog/000.wav", "cat/000.wav", "bird/000.wav"], ["dog-000.wav", "cat-000.wav", "bird-000.wav"]),
        (["x/dog/in/0.wav", "x/cat/in/0.wav"], ["dog-0.wav", "cat-0.wav"]),
        (["a/b/0.wav", "b/a/0.wav"], ["a-b-0.wav", "b-a-0.wav"]),
        (["take.wav", "take.flac", "take.ogg"], ["take.wav", "take-2.wav", "take-3.wav"]),
        (["take.wav", "take.wav"], ["take.wav", "take-2.wav"]),
        (["a/Take.wav", "a/take.wav"], ["Take.wav", "take-2.wav"]),
        (["a/Take.wav", "b/TAKE.wav"], ["a-Take.wav", "b-TAKE.wav"]),
        (["dog-0.wav", "dog/0.wav", "cat/0.wav"], ["dog-0.wav", "dog-0-2.wav", "cat-0.wav"]),
        (["dog/0.wav", "cat/0.wav", "dog-0.wav"], ["dog-0-2.wav", "cat-0.wav", "dog-0.wav"]),
        (["take.wav", "take.flac", "take-2.wav"], ["take.wav", "take-3.wav", "take-2.wav"]),
        (["caf\u00e9.wav", "cafe\u0301.wav"], ["caf\u00e9.wav", "cafe\u0301-2.wav"]),
        (["Stra\u00dfe.wav", "STRASSE.wav"], ["Stra\u00dfe.wav", "STRASSE-2.wav"]),
        (["caf\udce9.wav", "caf\udce8.wav"], ["caf\udce9.wav", "caf\udce8.wav"]),
        (["-x.wav", "a/-x.wav"], None),
        ([f"{'a' * 251}.wav", f"{'a' * 250}b.wav", f"{'a' * 250}c.wav"], None),
        ([f"{letter}/{'é' * 124}x.wav" for letter in "abc"], None),
        (["一.wav", "二.wav"], ["一.wav", "二.wav"]),
    ],
)
@pytest.mark.parametrize("ending", [".wav", "-george.wav", "-" + "é" * 300 + ".wav"])
def test_every_input_has_a_name_of_its_own(inputs, names, ending):
    found = output_names(inputs, ending)
    if names is not None and ending == ".wav":
        assert found == names
    assert len({name.casefold() for name in found}) == len(inputs)
    assert all(len(os.fsencode(name)) <= LONGEST and name.endswith(".wav") and "/" not in name for name in found)


def test_a_speaker_is_no_folder():
    assert file_name("take", "-../../etc/passwd.wav") == "take-.._.._etc_passwd.wav"


def test_an_output_is_never_an_input(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "run").mkdir(parents=True)
    (folder / "encoder.keras").write_bytes(b"e")
    sound = tmp_path / "in.wav"
    sound.write_bytes(b"x")
    (tmp_path / "soft.wav").symlink_to(sound)
    os.link(sound, tmp_path / "hard.wav")
    os.link(folder / "encoder.keras", tmp_path / "encoder.wav")
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "up").symlink_to(tmp_path)
    refused = (
        "in.wav", "soft.wav", "hard.wav", "encoder.wav", "up/in.wav", "up/hard.wav", "bundle/new.wav",
        "linked/new.wav", "linked/run/new.wav", "bundle/encoder.keras", "bundle/../in.wav",
    )  # fmt: skip
    for name in refused:
        with pytest.raises(InputError, match="input"):
            free_path(tmp_path / name, True, [sound, folder])
    assert free_path(tmp_path / "new.wav", False, [sound, folder, tmp_path / "absent"]) == tmp_path / "new.wav"


def test_an_output_that_cannot_be_written_is_refused_before_work(tmp_path):
    file = tmp_path / "file"
    file.touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, says in (
        (file, "--force"), (tmp_path, "folder"), (tmp_path / "pipe", "pipe"), (tmp_path / "dangling", "--force"),
        (file / "below", "cannot write"), (tmp_path / ("n" * 300), "cannot write"),
        (tmp_path / "loop" / "below", "cannot write"), ("/proc/below/x.wav", "cannot write"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            free_path(path, False)
    assert free_path(tmp_path / "a" / "b" / "c.wav", False)
    assert not (tmp_path / "a").exists()


def test_a_read_only_folder_is_refused_before_work(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("spectrovae.commands.outputs.tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match="Read-only"):
        free_path(tmp_path / "new.wav", False)


def test_a_folder_that_is_replaced_holds_no_input(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mark").touch()
    (out / "00.wav").touch()
    bundle = out / "bundle"
    bundle.mkdir()
    (tmp_path / "link").symlink_to(out)
    for folder, source in ((out, out / "00.wav"), (tmp_path / "link", out / "00.wav"), (out, bundle), (out, out),
                           (bundle, bundle), (bundle / "new", bundle), (tmp_path, bundle)):  # fmt: skip
        with pytest.raises(InputError, match="input"):
            check_folder(folder, force=True, mark="mark", inputs=[source])
    check_folder(out, force=True, mark="mark", inputs=["toy:harmonic", tmp_path / "absent"])


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_equal_stems_give_a_file_each(force, bundle, classes, tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "reconstruct", bundle, *classes, "--out", out, "--json", *force)
    assert code == 0
    names = ["dog-000.wav", "cat-000.wav", "bird-000.wav"]
    assert json.loads(text)["files"] == [str(out / name) for name in names]
    assert sorted(entry.name for entry in out.iterdir()) == sorted(names)


def test_inputs_stay_as_they_are(bundle, classes, tmp_path, capsys):
    before = [file.read_bytes() for file in classes]
    dog = classes[0]
    linked = tmp_path / "linked"
    linked.mkdir()
    os.link(dog, linked / "000.wav")
    for arguments in (
        ("reconstruct", bundle, dog, "--out", dog.parent),
        ("reconstruct", bundle, dog, "--out", linked),
        ("reconstruct", bundle, dog, "--out", bundle),
        ("transfer", bundle, dog, dog),
        ("transfer", bundle, dog, bundle / "new.wav"),
        ("interpolate", bundle, dog, classes[1], "--out", dog.parent),
        ("interpolate", bundle, dog, classes[1], "--out", tmp_path),
        ("generate", bundle, "--out", bundle),
        ("generate", bundle, "--out", bundle.parent),
        ("generate", bundle, "--out", bundle / "new"),
        ("export", bundle, bundle.parent, "--name", bundle.name),
        ("transform", dog, "--out", dog.parent),
    ):
        code, _, line = run(capsys, *arguments, "--force")
        assert (code, "input" in line) == (2, True), line
    for name in (dog, tmp_path / "new.wav"):
        assert run(capsys, "data", "scan", tmp_path, "--out", name)[0] == 2
    assert [file.read_bytes() for file in classes] == before
    assert run(capsys, "verify", bundle)[0] == 0


def test_nothing_is_computed_where_one_input_is_bad(bundle, classes, tmp_path, capsys):
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    code, _, line = run(capsys, "reconstruct", bundle, *classes, text, "--out", tmp_path / "out")
    assert code == 2
    assert "text.wav" in line
    assert not (tmp_path / "out").exists()


def test_drawn_sounds_are_written_as_one_folder(bundle, classes, tmp_path, capsys, monkeypatch):
    from spectrovae import audio

    out = tmp_path / "out"
    assert run(capsys, "generate", bundle, "-n", 3, "--out", out)[0] == 0
    assert len(list(out.glob("*.wav"))) == 3
    written, before = [], {entry.name: entry.read_bytes() for entry in out.iterdir() if entry.is_file()}
    write = audio.write

    def full(path, *arguments):
        if written:
            raise OSError(errno.ENOSPC, "full")
        written.append(write(path, *arguments))

    monkeypatch.setattr(audio, "write", full)
    assert run(capsys, "generate", bundle, "-n", 2, "--out", out, "--force")[0] == 1
    assert {entry.name: entry.read_bytes() for entry in out.iterdir() if entry.is_file()} == before
    monkeypatch.undo()
    assert run(capsys, "interpolate", bundle, *classes[:2], "-n", 2, "--out", out, "--force")[0] == 0
    assert sorted(entry.name for entry in out.iterdir() if entry.suffix == ".wav") == ["00.wav", "01.wav"]
    assert run(capsys, "generate", bundle, "-n", 2, "--out", tmp_path / "cat", "--force")[0] == 2


def test_a_manifest_replaces_manifests_alone(classes, tmp_path, capsys):
    manifest, notes = tmp_path / "all.jsonl", tmp_path / "notes.txt"
    notes.write_text("mine")
    for _ in range(2):
        assert run(capsys, "data", "scan", tmp_path, "--out", manifest)[0] == 0
    assert run(capsys, "data", "scan", tmp_path, "--out", notes)[0] == 2
    assert notes.read_text() == "mine"


def test_an_export_replaces_exports_alone(bundle, tmp_path, capsys):
    mine = tmp_path / "out" / "toy" / "1"
    mine.mkdir(parents=True)
    (mine / "mine.txt").touch()
    code, _, line = run(capsys, "export", bundle, tmp_path / "out", "--name", "toy", "--version", 1, "--force")
    assert code == 2
    assert "not an earlier" in line
    assert (mine / "mine.txt").exists()


def test_reports_are_not_written_over_what_they_are_made_of(bundle, tmp_path, capsys):
    """A folder that holds an earlier report and, since then, an input; and one that lies in an input."""
    out = tmp_path / "out"
    model = shutil.copytree(bundle, out / "model")
    sounds, judge = out / "sounds", out / "judge"
    for folder in (sounds, judge):
        folder.mkdir()
        soundfile.write(folder / "a.wav", np.full(500, 0.1), 4000)
    (out / "labels.csv").write_text("file,label\na.wav,a\n")
    marks = ("compare", "robustness", "listen", "latent", "fidelity", "conversion", "sounds", "judge")
    for mark in marks:
        (out / f"{mark}.json").write_text("{}")
    before = sorted(out.rglob("*"))
    reports = ("compare", "robustness", "listen", "latent", "fidelity", "generate")
    tails = dict.fromkeys(reports, ()) | {"judge-conversion": ("--judge", judge)}
    for name, tail in tails.items():
        for source, data in ((model, "toy:harmonic"), (bundle, sounds), (bundle, "toy:harmonic")):
            labels = ("--labels", out / "labels.csv") if (source, data) == (bundle, "toy:harmonic") else ()
            for folder in (out, *([sounds / "new"] if data == sounds else ())):
                code, _, line = run(capsys, name, source, "--data", data, *labels, *tail, "--out", folder, "--force")
                assert (code, "the input" in line) == (2, True), line
    code, _, line = run(capsys, "fit-judge", "label", "--data", sounds, "--out", out, "--force")
    assert (code, "the input" in line) == (2, True), line
    for target in (model / "codec.json", model / "new.json", out / "labels.csv", sounds / "a.wav"):
        code, _, line = run(capsys, "disentangle", model, "--data", sounds, "--labels", out / "labels.csv",
                            "--out", target, "--force")  # fmt: skip
        assert (code, "the input" in line) == (2, True), line
    assert sorted(out.rglob("*")) == before


def test_a_models_own_recordings_are_an_input(bundle, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    soundfile.write(sounds / "a.wav", np.full(500, 0.1), 4000)
    memory = {"open": {"source": str(sounds)}, "fingerprint": "x"}
    Codec.load(bundle).replace(data=memory).save(tmp_path / "model")
    for out in (sounds / "report", tmp_path):
        if out == tmp_path:
            (tmp_path / "latent.json").write_text("{}")
        code, _, line = run(capsys, "latent", tmp_path / "model", "--out", out, "--force")
        assert (code, "the input" in line) == (2, True), line


def test_a_link_to_a_pipe_device_or_folder_is_what_it_points_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("mine")
    for target, says in (("pipe", "pipe"), ("folder", "folder"), ("/dev/null", "pipe"), ("/proc/self/fd/1", "pipe")):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / target)
        with pytest.raises(InputError, match=says):
            free_path(link, True)
        link.unlink()
    link.symlink_to(tmp_path / "text")
    assert free_path(link, True) == link


def test_thousands_of_inputs_are_checked_at_once(tmp_path, monkeypatch):
    names = [str(tmp_path / f"{number}.wav") for number in range(300)]
    for name in names:
        Path(name).touch()
    calls, stat = [], os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, *rest, **options: (calls.append(path), stat(path, *rest, **options))[1]
    )
    free_paths(tmp_path / "out", names, force=False)
    assert len(calls) < 20 * len(names)
