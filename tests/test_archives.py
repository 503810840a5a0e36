"""Files that anyone may have written: read where they are sound, else refused in one line before they fill memory."""

import contextlib
import io
import itertools
import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from damage import rewrite

from spectrovae import archives
from spectrovae.errors import InputError
from spectrovae.evaluation.judges import Judge, build_network
from spectrovae.representations import LogMel


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


@pytest.fixture
def file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def refused(read, *arguments, match):
    with pytest.raises(InputError, match=match) as error:
        read(*arguments)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 600


def test_a_sound_model_is_loaded_however_it_is_packed(model, file):
    rewrite(file, lambda members: None, zipfile.ZIP_DEFLATED)
    for ours, theirs in zip(archives.load_model(file).get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def zeros(file, name, megabytes):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as stream:
        for _ in range(megabytes):
            stream.write(b" " * (1 << 20))


def test_an_archive_that_would_unpack_to_far_more_is_not_unpacked(file, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    for name in ("config.json", "model.weights.h5", "anything"):
        zeros(file, name, 70)
        refused(archives.load_model, file, match="would unpack to")
    zeros(tmp_path / "arrays.npz", "waveform.npy", 70)
    refused(archives.load_arrays, tmp_path / "arrays.npz", match="would unpack to")


def test_a_file_beyond_any_size_is_not_read(tmp_path):
    for name, read in (("model.keras", archives.load_model), ("a.npz", archives.load_arrays)):
        with open(tmp_path / name, "wb") as stream:
            stream.truncate(archives.MODEL_BYTES + 1)  # sparse: it takes no room
        refused(read, tmp_path / name, match="more than the")
    with open(tmp_path / "codec.json", "wb") as stream:
        stream.truncate(archives.JSON_BYTES + 1)
    refused(archives.read_bytes, tmp_path / "codec.json", match="more than the")


def store(kind):
    def write(members):
        with h5py.File("weights.h5", "w", driver="core", backing_store=False) as weights:
            if kind == "soft":
                weights["layers"] = h5py.SoftLink("/elsewhere")
            elif kind == "external link":
                weights["layers"] = h5py.ExternalLink("/etc/passwd", "/")
            elif kind == "external data":
                weights.create_dataset("layers/dense/vars/0", (4,), "u1", external=[("/etc/passwd", 0, 4)])
            elif kind == "virtual":
                layout = h5py.VirtualLayout((4,), "f4")
                layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
                weights.create_virtual_dataset("layers", layout)
            else:
                weights.create_dataset("layers/dense/vars/0", (1 << 30,), "f4", chunks=(1024,))
            weights.flush()
            members["model.weights.h5"] = weights.id.get_file_image()

    return write


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("soft", "is a link"),
        ("external link", "is a link"),
        ("external data", "in another file"),
        ("virtual", "in another file"),
        ("claim", "claims 4294967296"),
    ],
)
def test_weights_that_lie_elsewhere_or_nowhere_are_refused(file, kind, says):
    rewrite(file, store(kind))
    refused(archives.load_model, file, match=says)


def test_weights_in_an_archive_within_the_archive_are_not_read(file):
    """They may unpack to far more than the archive says of itself."""

    def change(members):
        inner = io.BytesIO()
        np.savez_compressed(inner, __root__=np.zeros(1 << 27, np.uint8))
        del members["model.weights.h5"]
        members["model.weights.npz"] = inner.getvalue()

    rewrite(file, change)
    refused(archives.load_model, file, match=r"holds no model\.weights\.h5")


LAMBDA = {
    "class_name": "Lambda",
    "config": {"name": "evil", "function": {"class_name": "__lambda__", "config": {"code": "4wAAAA==\n"}}},
}


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{",
        b"[" * 50_000,
        b"null",
        json.dumps(LAMBDA).encode(),
        json.dumps({"module": "os", "class_name": "system", "config": {"command": "touch escaped"}}).encode(),
        json.dumps({"module": "keras", "class_name": "Functional", "config": {"name": 3}}).encode(),
        json.dumps({"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}).encode(),
    ],
)
def test_a_configuration_that_is_no_model_is_refused(file, tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    rewrite(file, lambda members: members.update({"config.json": config}))
    refused(archives.load_model, file, match=r"model.keras")
    assert os.listdir(tmp_path) == ["model.keras"]


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "loop", "file above", "long"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "model.keras"
    if kind == "folder":
        path.mkdir()
        (path / "config.json").write_text("{}")  # which Keras would take for a model
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("device", "loop"):
        path.symlink_to("/dev/zero" if kind == "device" else path)
    elif kind == "file above":
        path.write_text("x")
        path = path / "model.keras"
    elif kind == "long":
        path = tmp_path / ("a" * 300)
    for read in (archives.load_model, archives.load_arrays, archives.read_bytes):
        refused(read, path, match="cannot read")


def test_arrays_come_back_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    kept = {
        "x": np.arange(6.0).reshape(2, 3),
        "empty": np.zeros((0, 3)),
        "scalar": np.float32(3),
        "text": np.array("a"),
    }
    np.savez(path, **kept)
    for name, value in archives.load_arrays(path).items():
        np.testing.assert_array_equal(value, kept[name])
    np.savez(path, x=np.array([{}], object), allow_pickle=True)
    refused(archives.load_arrays, path, match="not the array it claims to be")
    for content in (b"", b"no array", b"\x93NUMPY\x01\x00\x05\x00{}   ", b"\x93NUMPY\x09\x00" + bytes(100)):
        rewrite(path, lambda members, content=content: members.update({"x.npy": content}))
        refused(archives.load_arrays, path, match="damaged")


def test_json_is_strict():
    assert archives.parse_json(b'{"a": [1, null, "\\ud800"]}', "x.json") == {"a": [1, None, "\ud800"]}
    for text in (b"", b"NaN", b"[Infinity]", b"1e999", b"[" * 100_000, b"\xff", b"1" * 10_000, b"{'a': 1}"):
        refused(archives.parse_json, text, "x.json", match="x.json is damaged")


# Descriptions that change meanwhile


def reader(descriptions, results):
    """``describe`` and ``use`` that go through these in turn; an exception is raised."""
    descriptions, results = iter(descriptions), iter(results)

    def use(_):
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    return lambda: next(descriptions), use


def test_a_read_begins_anew_until_nothing_changes(monkeypatch):
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    moved, broken = InputError("moved"), InputError("broken")
    assert archives.read_unchanged(*reader("aa", [1])) == 1
    assert archives.read_unchanged(*reader("abbb", [1, 2])) == 2
    assert archives.read_unchanged(*reader("aaaa", [moved, 2])) == 2
    assert archives.read_unchanged(*reader("abbbbb", [moved, moved, 3])) == 3
    with pytest.raises(InputError, match="broken"):
        archives.read_unchanged(*reader("aaaa", [moved, broken]))
    endless = (str(number) for number in range(1000))
    with pytest.raises(InputError, match="replaced faster"):
        archives.read_unchanged(lambda: next(endless), len)


# Judges


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    representation = LogMel(8000, n_fft=128, n_mels=8)
    network = build_network(representation.feature_shape(512), 2)
    path = tmp_path_factory.mktemp("judges") / "digits"
    Judge(representation, network, target="label", labels=["a", "b"], samples=512).save(path)
    return path


def test_a_damaged_judge_is_one_line(judge, tmp_path):
    sound = json.loads((judge / "judge.json").read_text())
    values = [None, True, -1, "x", [], {}, ["a", 3]]
    loaded = 0
    for number, (name, value) in enumerate((name, value) for name in sound for value in [*values, "remove"]):
        changed = {key: kept for key, kept in sound.items() if key != name or value != "remove"}
        copy = shutil.copytree(judge, tmp_path / str(number))
        (copy / "judge.json").write_text(json.dumps(changed | ({name: value} if value != "remove" else {})))
        try:
            Judge.load(copy)
            loaded += 1
        except InputError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
        shutil.rmtree(copy)
    assert loaded <= 3 * 8 + 1  # what is for people alone (version, parameters, rate), and an info without content
    for text in (b"", b"[" * 100_000, b"NaN", b"\xff"):
        copy = shutil.copytree(judge, tmp_path / "text", dirs_exist_ok=True)
        (copy / "judge.json").write_bytes(text)
        refused(Judge.load, copy, match="damaged")


def test_judges_refuse_integer_samples(judge):
    loaded = Judge.load(judge)
    with pytest.raises(InputError, match="floating point"):
        loaded.hear(np.zeros((1, 512), np.int16), 8000)


def test_a_reader_that_is_never_in_time_keeps_writers_out(monkeypatch):
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    version, held = itertools.count(), []

    def describe():
        return b"%d" % (0 if held else next(version))

    @contextlib.contextmanager
    def hold():
        held.append(True)
        yield
        held.pop()

    assert archives.read_unchanged(describe, lambda text: text + b" read", hold) == b"0 read"
