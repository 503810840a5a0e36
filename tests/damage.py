"""Damages of a bundle: of its description, of its models and arrays with hashes made anew, and of its files' kinds.

``damages(seed)`` yields as many as are taken, each a function of a bundle's path; ``outcome`` says what became of it.
"""

import copy
import io
import json
import os
import random
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from spectrovae import bundle, files
from spectrovae.codec import Codec
from spectrovae.errors import InputError

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e300,
    10**30,
    "",
    "x",
    "a\nb",
    "\ud800",
    "é" * 500,
    [],
    {},
    [[]],
    {"a": [None]},
]
TEXTS = [
    b"", b"{", b"[]", b"3", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"format_version": Infinity}',
    b'{"format_version": ' + b"1" * 10_000 + b"}", b'{"format_version": 1e999}', b"\x00" * 100,
]  # fmt: skip


def seal(path: Path) -> None:
    """Make hashes and digest anew, as someone would who changes a bundle on purpose."""
    file = path / bundle.DESCRIPTION
    description = json.loads(file.read_text())
    for name in list(description["files"]):
        if (path / name).is_file():
            description["files"][name] = files.sha256(path / name)
    description["digest"] = bundle._digest(description)
    file.write_text(json.dumps(description))


def mutate(value, pick: random.Random):
    """A copy of a JSON value with one of its parts removed, replaced, doubled or renamed."""
    value = copy.deepcopy(value)
    places: list = []

    def walk(inner):
        for key in inner if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                walk(inner[key])

    walk(value)
    inner, key = pick.choice(places)
    action = pick.choice(["remove", "replace", "replace", "replace", "rename"])
    if action == "replace" or isinstance(inner, list):
        inner[key] = copy.deepcopy(pick.choice(VALUES))
    else:
        moved = inner.pop(key)
        if action == "rename":
            inner[f"{key}_"] = moved
    return value


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None], compression=zipfile.ZIP_STORED) -> None:
    """Change the members of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def of_description(pick: random.Random) -> Callable[[Path], None]:
    sealed, text = pick.random() < 0.5, pick.random() < 0.2 and pick.choice(TEXTS)

    def damage(path: Path) -> None:
        file = path / bundle.DESCRIPTION
        if text is not False:
            file.write_bytes(text)
            return
        description = mutate(json.loads(file.read_text()), pick)
        if sealed:
            description["digest"] = bundle._digest(description)
        file.write_text(json.dumps(description))

    return damage


def of_model(pick: random.Random) -> Callable[[Path], None]:
    """One ``.keras`` file, its hash made anew."""
    part = pick.choice(["representation", "encoder", "decoder", "prior"])

    def flipped(file):
        content = bytearray(file.read_bytes())
        for _ in range(pick.choice([1, 10, 100])):
            content[pick.randrange(len(content))] = pick.randrange(256)
        file.write_bytes(bytes(content))

    def cut(file):
        content = file.read_bytes()
        file.write_bytes(content[: pick.randrange(len(content))])

    def configured(file):
        def change(members):
            members["config.json"] = json.dumps(mutate(json.loads(members["config.json"]), pick)).encode()

        rewrite(file, change)

    def without(file):
        rewrite(file, lambda members: members.pop(pick.choice(sorted(members))))

    def swapped(file):
        others = [other for other in file.parent.glob("*.keras") if other != file]
        shutil.copy(pick.choice(sorted(others)), file)

    def bomb(file):
        size = 100 << 20
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("config.json", "w") as stream:
            for _ in range(size >> 20):
                stream.write(b" " * (1 << 20))

    def weights(file):
        kind = pick.choice(["soft", "external", "shape", "garbage", "empty", "virtual"])

        def change(members):
            stream = io.BytesIO()
            with h5py.File(stream, "w") as store:
                if kind == "soft":
                    store["layers"] = h5py.SoftLink("/elsewhere")
                elif kind == "external":
                    store["layers"] = h5py.ExternalLink("/etc/passwd", "/")
                elif kind == "shape":
                    store.create_dataset("layers/x", shape=(1 << 40,), dtype="f4", chunks=(1024,))
                elif kind == "virtual":
                    layout = h5py.VirtualLayout((4,), "f4")
                    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4,))
                    store.create_virtual_dataset("layers", layout)
            members["model.weights.h5"] = b"\x89HDF\r\n" if kind == "garbage" else stream.getvalue()

        rewrite(file, change)

    def members(file):
        name, content = pick.choice([("../../escaped", b"x"), ("/tmp/escaped", b"x"), ("config.json", b"[" * 50_000)])
        rewrite(file, lambda own: own.update({name: content}), zipfile.ZIP_DEFLATED)

    def encrypted(file):  # the flag of the first entry's header in the directory
        content = bytearray(file.read_bytes())
        content[content.rindex(b"PK\x01\x02") + 8] |= 1
        file.write_bytes(bytes(content))

    change = pick.choice([flipped, cut, configured, configured, without, swapped, bomb, weights, members, encrypted])

    def damage(path: Path) -> None:
        change(path / f"{part}.keras")
        seal(path)

    return damage


def of_golden(pick: random.Random) -> Callable[[Path], None]:
    """The golden vectors, their hash made anew."""

    def changed(arrays):
        name = pick.choice(sorted(arrays))
        array = arrays[name]
        how = pick.choice(["missing", "renamed", "cut", "flat", "type", "nan", "more", "empty", "text"])
        if how == "more":
            arrays["more"] = array
            return
        arrays.pop(name)
        if how != "missing":
            new = {
                "renamed": lambda: array, "cut": lambda: array[:1], "flat": array.ravel, "empty": lambda: array[:0],
                "type": lambda: array.astype(pick.choice(["f8", "c8", "i8", "f2"])), "nan": lambda: array * np.nan,
                "text": lambda: np.array("text"),
            }  # fmt: skip
            arrays[f"{name}_" if how == "renamed" else name] = new[how]()

    def damage(path: Path) -> None:
        file = path / "golden.npz"
        with np.load(file) as kept:
            arrays = {name: kept[name] for name in kept.files}
        kind = pick.choice(["changed", "changed", "changed", "pickle", "bomb", "claim", "other", "bytes"])
        if kind == "changed":
            changed(arrays)
            np.savez(file, **arrays)
        elif kind == "pickle":
            np.savez(file, **arrays | {"waveform": np.array([{}], object)}, allow_pickle=True)
        elif kind == "bomb":
            np.savez_compressed(file, **arrays | {"latent_0": np.zeros(100 << 20, np.uint8)})
        elif kind == "bytes":
            file.write_bytes(pick.choice(TEXTS))
        else:
            header = (
                b"\x93NUMPY\x01\x00" + b"v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
            )
            content = header.ljust(128) if kind == "claim" else b"not an array"
            rewrite(file, lambda members: members.update({"waveform.npy": content}))
        seal(path)

    return damage


def of_files(pick: random.Random) -> Callable[[Path], None]:
    """A pipe, a folder, a device or a link in place of a file of the bundle."""
    name = pick.choice([*bundle.FILES, "prior.keras", bundle.DESCRIPTION, ".saved", ".saving"])
    kind = pick.choice(["fifo", "folder", "device", "nowhere", "itself", "other"])

    def damage(path: Path) -> None:
        file = path / name
        if file.exists():
            file.unlink()
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
            (file / "mine").write_text("mine")
        else:
            other = path.parent / "other"
            other.mkdir(exist_ok=True)
            (other / "encoder.keras").write_text("mine")
            file.symlink_to({"device": "/dev/zero", "nowhere": "/nowhere", "itself": file, "other": other}[kind])

    return damage


KINDS = [of_description, of_model, of_golden, of_files]


def damages(seed: int = 0) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Without end: the kind of a damage, and the function that does it to a bundle."""
    number = 0
    while True:
        kind = KINDS[number % len(KINDS)]
        yield kind.__name__, kind(random.Random(f"{seed} {number}"))
        number += 1


def outcome(path: Path, sound: Codec, seconds: int = 60) -> str:
    """``"same"`` where a damaged bundle gives the sound codec's weights and golden vectors, or ``"refused"``.

    Raises:
        AssertionError: another model, an error that is not one line, or no end.
    """

    def late(*_):
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        loaded = Codec.load(path)
        sound.verify(path)
        configs = [[part.get_config() for part in (c.representation, c.encoder, c.decoder)] for c in (loaded, sound)]
        if configs[0] != configs[1] or loaded.segment_frames != sound.segment_frames:
            loaded.verify(path)
    except InputError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"not one line: {error}") from error
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    for part in ("encoder", "decoder", "learned_prior"):
        weights = [bundle.weights_digest(getattr(codec, part)) for codec in (loaded, sound)]
        assert weights[0] == weights[1], f"other weights of {part}"
    return "same"
