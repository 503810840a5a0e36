"""The bundle on disk: one folder a codec, changed in one step, every file known by its hash.

saved_models/fsdd-vae/
  codec.json                                          format version, family, shapes, versions, file hashes, metrics
  representation.keras  encoder.keras  decoder.keras  each usable on its own
  golden.npz                                          test signals with the latents and features they gave
  prior.keras                                         only where a prior of the latents was learned
  data.json                                           how the training data were opened, and each recording's split

Hashes find damage and mixtures of versions, not malice: whoever writes a bundle writes its hashes too.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

import spectrovae
import spectrovae.models  # the layers of a model must be registered before it is loaded
from spectrovae import archives, files, representations
from spectrovae.errors import InputError, StorageError
from spectrovae.models.priors import Prior

T = TypeVar("T")

FORMAT_VERSION = 1
PARTS = ("representation", "encoder", "decoder")
PRIOR = "prior"
DATA = "data.json"
DESCRIPTION = "codec.json"
FILES = (*(f"{part}.keras" for part in PARTS), "golden.npz")
OPTIONAL = (f"{PRIOR}.keras", DATA)
WAIT = 20.0
"""Seconds that a save waits for another one's end."""
MEND = "restore it from a copy or fit again"


class Bundle:
    """One version of a bundle: its description, and the files whose hashes are in it."""

    def __init__(self, path: Path, text: bytes):
        self.path = path
        self.description = _checked(text, path)

    def file(self, name: str) -> Path:
        """Path of a file that has the hash in the description."""
        try:
            file = _locate(self.path, name)
            if not file.exists():
                raise InputError(f"{self.path} lacks {name}; {MEND}")
            archives.check_file(file)
            sound = files.sha256(file) == self.description["files"][name]
        except OSError as error:
            raise InputError(f"cannot read {self.path / name}: {error.strerror or error}; {MEND}") from error
        if not sound:
            raise InputError(f"{file} is damaged: its hash is not {DESCRIPTION}'s; {MEND}")
        return file

    def part(self, name: str) -> Any:
        """The representation, encoder, decoder or prior."""
        if f"{name}.keras" not in self.description["files"]:
            raise InputError(f"{self.path} has no learned prior; spectrovae fit-prior learns one")
        file = self.file(f"{name}.keras")
        part = representations.load(file) if name == "representation" else archives.load_model(file)
        if name == PRIOR and not isinstance(part, Prior):
            raise InputError(f"{file} holds a {type(part).__name__}, expected a prior; {MEND}")
        return part

    def prior(self, encoder: keras.Model) -> tuple[keras.Model | None, dict | None]:
        """The learned prior and its entry in the description; (None, None) where there is none."""
        entry = self.description.get("learned_prior")
        if entry is None:
            return None, None
        if entry.get("encoder") != weights_digest(encoder):
            raise InputError(
                f"the learned prior in {self.path} was fitted to the latents of another encoder; run spectrovae "
                "fit-prior --force"
            )
        return self.part(PRIOR), entry

    def data(self) -> dict | None:
        """The settings of the training data; None for a bundle without them."""
        if DATA not in self.description["files"]:
            return None
        data = archives.parse_json(archives.read_bytes(self.file(DATA)), self.path / DATA)
        if not isinstance(data, dict):
            raise InputError(f"{self.path / DATA} is damaged (expected an object); {MEND}")
        return data


def read(path: str | os.PathLike, use: Callable[[Bundle], T]) -> T:
    """What ``use`` makes of one version of a bundle; begun anew where a save changed it meanwhile.

    Raises:
        InputError: no bundle there, one that is damaged or of a newer format, or as ``use``.
    """
    path = Path(path)
    return archives.read_unchanged(
        lambda: _description_text(path), lambda text: use(Bundle(path, text)), lambda: _without_writers(path)
    )


@contextlib.contextmanager
def _without_writers(path: Path) -> Iterator[None]:
    """Hold the lock where it is free soon: a fit keeps it for hours, and a folder may be for reading alone."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(InputError, StorageError):
            stack.enter_context(files.locked(path, "a command that reads it", wait=1.0))
        yield


def read_description(path: str | os.PathLike) -> dict:
    """``codec.json`` of a bundle.

    Raises:
        InputError: no bundle, an unfinished one, unreadable JSON, fields that are missing or of another type, or a
            format newer than this version reads.
    """
    return Bundle(Path(path), _description_text(Path(path))).description


def load_part(path: str | os.PathLike, part: str) -> Any:
    """One part of a bundle alone: ``"representation"``, ``"encoder"``, ``"decoder"``, or ``"prior"`` if it has one.

    Raises:
        InputError: the file is missing or damaged, or its hash is not the one in ``codec.json``.
    """
    if part not in (*PARTS, PRIOR):
        raise InputError(f"part must be one of {', '.join((*PARTS, PRIOR))}, received {part!r}")
    return read(path, lambda bundle: bundle.part(part))


def weights_digest(model: keras.Model) -> str:
    """SHA-256 of a model's weights, the same after saving and loading (a ``.keras`` file's own hash is not)."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def saving(path: str | os.PathLike, description: dict) -> Iterator[Path]:
    """Yield a folder for the files of a bundle; they replace the old ones in one step when the block ends well.

    Files are staged in ``.saving``; renaming that folder to ``.saved`` is the moment of change. From then on each
    file counts where it lies, staged or moved to its place. Another save meanwhile waits.

    Args:
        description: the content of ``codec.json`` without the hashes, which are added.

    Raises:
        InputError: the folder cannot be written, or another process is writing it.
        StorageError: the disk is full, or fails.
    """
    path = Path(path)
    with files.locked(path, "a save of a model", wait=WAIT), files.writing(path):
        for name in (*FILES, *OPTIONAL, DESCRIPTION):
            if (path / name).is_dir():
                raise InputError(f"{path / name} is a folder, and a file is to be written there: choose another path")
        _finish(path)
        foreign = [name for name in (*FILES, *OPTIONAL) if os.path.lexists(path / name)]
        if foreign and not (path / DESCRIPTION).exists() and not (path / "run").exists():
            raise InputError(f"{path} holds {foreign[0]} and no {DESCRIPTION}, so it is no bundle: choose another path")
        stage = path / ".saving"
        if _is_folder(stage):
            shutil.rmtree(stage)
        stage.mkdir()
        try:
            yield stage
            hashes = {file.name: files.sha256(file) for file in sorted(stage.iterdir())}
            full = json.loads(files.json_text(path / DESCRIPTION, description | {"files": hashes}))
            files.write_json(stage / DESCRIPTION, full | {"digest": _digest(full)})
            for file in (*stage.iterdir(), stage):
                files.synchronise(file)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        os.rename(stage, path / ".saved")
        files.synchronise(path)
        _finish(path)
        for name in set(OPTIONAL) - set(hashes):  # of an earlier version
            (path / name).unlink(missing_ok=True)


def _finish(path: Path) -> None:
    """Move the files of a finished save to their places."""
    staged = path / ".saved"
    if not _is_folder(staged):
        return
    names = sorted(os.listdir(staged))
    for name in names:
        if name not in (*FILES, *OPTIONAL, DESCRIPTION) or not stat.S_ISREG(os.lstat(staged / name).st_mode):
            raise InputError(f"{staged / name} is not of a save; move it away, and save again")
    for name in names:
        os.replace(staged / name, path / name)
    files.synchronise(path)
    staged.rmdir()


def _is_folder(path: Path) -> bool:
    """Whether there is a folder; InputError where there is anything else, such as a link to one."""
    if path.is_dir() and not path.is_symlink():
        return True
    if os.path.lexists(path):
        raise InputError(f"{path} is not a folder of a save; move it away, and save again")
    return False


def _locate(path: Path, name: str) -> Path:
    staged = path / ".saved"
    return staged / name if (staged / name).is_file() and not staged.is_symlink() else path / name


def _description_text(path: Path) -> bytes:
    try:
        for _ in range(2):  # the file may be moved between the two looks
            file = _locate(path, DESCRIPTION)
            if file.is_file():
                archives.check_file(file, archives.JSON_BYTES)
                with contextlib.suppress(FileNotFoundError):
                    return file.read_bytes()
        unfinished = (path / "run" / "config.json").is_file()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {MEND}") from error
    hint = "its fit has not finished an epoch; run it again" if unfinished else f"expected a folder with {DESCRIPTION}"
    raise InputError(f"no model bundle at {path}: {hint}")


def _digest(description: dict) -> str:
    """SHA-256 of a description as it is read, without its digest, with sorted keys."""
    plain = {key: value for key, value in description.items() if key != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _checked(text: bytes, path: Path) -> dict:
    """The description in ``codec.json``; InputError where a field is missing, of another type, or was changed."""
    file = path / DESCRIPTION
    description = archives.parse_json(text, file)
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this spectrovae {spectrovae.__version__} reads up to "
            f"{FORMAT_VERSION}; upgrade spectrovae"
        )
    if type(version) is not int or version < 1:
        raise InputError(f"{file} is damaged (it has no format_version); {MEND}")
    for name, (sound, expected) in _FIELDS.items():
        if name not in description and name not in _LATER:
            raise InputError(f"{file} is damaged (it lacks {name}); {MEND}")
        if name in description and not sound(description[name]):
            raise InputError(f"{file} is damaged ({name} must be {expected}); {MEND}")
    lacking = set(FILES) - set(description["files"])
    if ("learned_prior" in description) != (f"{PRIOR}.keras" in description["files"]):
        lacking.add("learned_prior" if "learned_prior" not in description else f"{PRIOR}.keras")
    if lacking:
        raise InputError(f"{file} is damaged (it lacks {', '.join(sorted(lacking))}); {MEND}")
    if description.get("digest", _digest(description)) != _digest(description):
        raise InputError(f"{file} was changed: its content is not that of its digest; {MEND}")
    return description


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(size) is int and 0 < size < 2**31 for size in value)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


def _is_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())


def _is_learned(value: Any) -> bool:
    return isinstance(value, dict) and _is_line(value.get("kind", "")) and isinstance(value.get("figures", {}), dict)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "family": (_is_line, "one line of text"),
    "prior": (lambda value: value in (None, "standard_normal"), "null or standard_normal"),
    "info": (lambda value: isinstance(value, dict), "an object"),
    "feature_shape": (_is_sizes, "a list of three positive sizes"),
    "files": (_is_hashes, "an object of hashes"),
    "learned_prior": (_is_learned, "an object with kind and figures"),
}
_LATER = ("learned_prior",)
