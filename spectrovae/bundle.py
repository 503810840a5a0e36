"""The bundle on disk: one folder a codec, changed in one step, every file known by its hash.

saved_models/fsdd-vae/
  codec.json                                          format version, family, shapes, versions, file hashes, metrics
  representation.keras  encoder.keras  decoder.keras  each usable on its own
  golden.npz                                          test signals with the latents and features they gave
  prior.keras                                         only where a prior of the latents was learned
  data.json                                           how the training data were opened, and each recording's split
"""

import hashlib
import json
import os
from pathlib import Path

import keras
import numpy as np

import spectrovae
import spectrovae.models  # what a part is made of must be known when it is loaded
from spectrovae import files, representations
from spectrovae.errors import InputError

FORMAT_VERSION = 1
PARTS = ("representation", "encoder", "decoder")
PRIOR = "prior"
DATA = "data.json"
FILES = (*(f"{part}.keras" for part in PARTS), "golden.npz")


def read_description(path: str | os.PathLike) -> dict:
    """``codec.json`` of a bundle, checked for its format version.

    Raises:
        InputError: no bundle, an unfinished one, unreadable JSON, or a format newer than this version reads.
    """
    path = Path(path)
    file = _part_file(path, "codec.json")
    if not file.is_file():
        unfinished = (path / "run" / "config.json").is_file()
        hint = "its fit has not finished an epoch; run it again" if unfinished else "expected a folder with codec.json"
        raise InputError(f"no model bundle at {path}: {hint}")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        version = int(description["format_version"])
        lacking = {"family", "prior", "info"} - set(description) | set(FILES) - set(description.get("files", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged ({error!r}); restore it from a copy or fit again") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this spectrovae {spectrovae.__version__} reads up to "
            f"{FORMAT_VERSION}; upgrade spectrovae"
        )
    if lacking:
        missing = ", ".join(sorted(lacking))
        raise InputError(f"{file} is damaged (it lacks {missing}); restore it from a copy or fit again")
    return description


def load_part(path: str | os.PathLike, part: str):
    """One part of a bundle alone: ``"representation"``, ``"encoder"``, ``"decoder"``, or ``"prior"`` if it has one.

    Raises:
        InputError: the file is missing, or its hash is not the one in ``codec.json``.
    """
    path = Path(path)
    if part not in (*PARTS, PRIOR):
        raise InputError(f"part must be one of {', '.join((*PARTS, PRIOR))}, received {part!r}")
    if part == PRIOR and f"{PRIOR}.keras" not in read_description(path)["files"]:
        raise InputError(f"{path} has no learned prior; spectrovae fit-prior learns one")
    file = whole_file(path, f"{part}.keras")
    return representations.load(file) if part == "representation" else keras.saving.load_model(file, compile=False)


def load_prior(path: str | os.PathLike, encoder: keras.Model) -> tuple[keras.Model | None, dict | None]:
    """The learned prior of a bundle and its entry in ``codec.json``; (None, None) where it has none.

    Raises:
        InputError: the file is missing or damaged, or the prior was fitted to the latents of another encoder.
    """
    entry = read_description(path).get("learned_prior")
    if entry is None:
        return None, None
    if not isinstance(entry, dict) or entry.get("encoder") != weights_digest(encoder):
        raise InputError(
            f"the learned prior in {path} was fitted to the latents of another encoder; run spectrovae fit-prior "
            "--force"
        )
    return load_part(path, PRIOR), entry


def load_data(path: Path) -> dict | None:
    """What ``data.json`` says of the training data; None for a bundle without it."""
    if DATA not in read_description(path)["files"]:
        return None
    try:
        return json.loads(whole_file(path, DATA).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path / DATA} is damaged ({error}); restore it from a copy or fit again") from error


def weights_digest(model: keras.Model) -> str:
    """SHA-256 of a model's weights, the same after saving and loading (a ``.keras`` file's own hash is not)."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def whole_file(path: Path, name: str) -> Path:
    """A file of a bundle, checked against its hash in ``codec.json``."""
    expected = read_description(path)["files"][name]
    file = _part_file(path, name)
    if not file.is_file():
        raise InputError(f"{path} lacks {name}; restore it from a copy or fit again")
    if files.sha256(file) != expected:
        raise InputError(f"{file} is damaged: its hash is not codec.json's; restore it from a copy or fit again")
    return file


def _part_file(path: Path, name: str) -> Path:
    staged = path / ".saved" / name
    return staged if staged.is_file() else path / name


def finish_saving(path: Path) -> None:
    staged = path / ".saved"
    if staged.is_dir():
        for file in sorted(staged.iterdir()):
            os.replace(file, path / file.name)
        staged.rmdir()
