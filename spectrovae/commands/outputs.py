"""Paths that sub-commands write to: none is another's or an input's, and all are checked before any work."""

import argparse
import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from spectrovae import files
from spectrovae.errors import InputError

INPUTS = (
    "data", "file", "files", "features", "first", "second", "prefix", "config", "archive", "bundle", "bundles", "judge",
    "labels",
)  # fmt: skip
"""Names of the options that are paths to read."""
LONGEST = 255
"""Bytes of a file name on common file systems."""


def free_path(path: str | os.PathLike, force: bool, inputs: Iterable[str | os.PathLike] = ()) -> Path:
    """A path that a file can be written to.

    Args:
        force: replace a file that is there.
        inputs: files and folders that the command reads; no output replaces one of them or lies in such a folder.

    Raises:
        InputError: the path is an input, also through links, is a folder or a device, exists and ``force`` is not
            given, or cannot be written.
    """
    return _free_path(Path(path), force, _Inputs(inputs))


def free_paths(
    folder: str | os.PathLike, inputs: Sequence[str], *, force: bool, ending: str = ".wav", bundle: str | None = None
) -> list[Path]:
    """The file in ``folder`` that each input's result is written to; see :func:`output_names` and :func:`free_path`."""
    read = _Inputs([*inputs, *([bundle] if bundle is not None else [])])
    return [_free_path(Path(folder) / name, force, read) for name in output_names(inputs, ending)]


def inputs_of(options: argparse.Namespace) -> list[str]:
    """The paths that a command's options name as its inputs."""
    values = [getattr(options, name, None) for name in INPUTS]
    return [path for value in values for path in (value if isinstance(value, list) else [value]) if path]


def check_out(options: argparse.Namespace, mark: str) -> None:
    """:func:`check_folder` of a command's ``--out`` and all its inputs."""
    check_folder(options.out, force=options.force, mark=mark, inputs=inputs_of(options))


def check_folder(out: str | os.PathLike, *, force: bool, mark: str, inputs: Iterable[str | os.PathLike] = ()) -> None:
    """Check a folder that is replaced in one step: as ``files.check_output``, and no input may lie in it.

    Raises:
        InputError: the folder is, holds or lies in an input, or as ``files.check_output``.
    """
    refuse_inputs(out, inputs)
    files.check_output(out, force=force, mark=mark)


def refuse_inputs(out: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
    """Raise InputError where a file or folder to write is, holds or lies in an input."""
    read = _Inputs(inputs)
    read.refuse(Path(out))
    refuse_held(out, read.sources)


def refuse_held(out: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
    """Raise InputError where a folder to replace is an input or holds one."""
    for source in inputs:
        if os.path.exists(source) and Path(os.path.realpath(source)).is_relative_to(os.path.realpath(out)):
            raise InputError(f"{out} holds the input {source} and would be replaced with it; choose another folder")


def output_names(inputs: Sequence[str], ending: str = ".wav") -> list[str]:
    """Different file names, one for each input: its stem and ``ending``.

    Equal stems are preceded by the folders in which they differ (``dog/000.wav`` and ``cat/000.wav`` give
    ``dog-000.wav`` and ``cat-000.wav``) and where that is not enough followed by a number (``take-2.wav``). Names that
    differ in case alone count as equal, as some file systems do; names too long for a file are cut.
    """
    paths = [Path(os.path.abspath(path)) for path in inputs]
    equal: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        equal.setdefault(_key(path.stem), []).append(index)
    stems = [path.stem for path in paths]
    for group in equal.values():
        for index, folders in zip(group, _differing([paths[index].parent.parts for index in group])):
            stems[index] = "-".join([*folders, stems[index]])
    names, taken = [""] * len(paths), set[str]()
    alone = [group[0] for group in equal.values() if len(group) == 1]  # these keep their names
    for index in [*alone, *(index for group in equal.values() if len(group) > 1 for index in group)]:
        number = 1
        while _key(name := file_name(stems[index], ending, number)) in taken:
            number += 1
        names[index] = name
        taken.add(_key(name))
    return names


def file_name(stem: str, ending: str, number: int = 1) -> str:
    """``stem``, ``number`` from 2 up and ``ending`` as one file name: separators become ``_``, long texts are cut."""
    stem, ending = (text.replace("/", "_").replace(os.sep, "_").replace("\0", "_") for text in (stem, ending))
    while len(os.fsencode(ending)) > LONGEST // 2:
        ending = ending[1:]
    ending = f"-{number}{ending}" if number > 1 else ending
    while len(os.fsencode(stem + ending)) > LONGEST:
        stem = stem[:-1]
    return stem + ending


class _Inputs:
    """The inputs of a command that exist, known by what they are: a link to one is the same.

    Args:
        paths: files, and folders with the files in them.
    """

    def __init__(self, paths: Iterable[str | os.PathLike]):
        self.sources = [Path(path) for path in paths if os.path.exists(path)]
        self._folders = {Path(os.path.realpath(path)): path for path in self.sources if path.is_dir()}
        held = [(entry, path) for path in self._folders.values() for entry in _files(path)]
        self._files = {_identity(path): source for path, source in [*held, *zip(self.sources, self.sources)]}
        self._files.pop(None, None)  # gone meanwhile

    def refuse(self, path: Path) -> None:
        """Raise InputError where an output is one of them, or lies in one."""
        if source := self._files.get(_identity(path)):
            raise InputError(f"{path} is the input {source}, which is never overwritten; choose another path for it")
        places = (Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(path)))
        for folder, source in self._folders.items():
            if any(place.is_relative_to(folder) for place in places):
                raise InputError(f"{path} lies in the input {source}; choose a path outside it")


def _files(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError:  # whoever reads it says so
        return []


def _identity(path: Path) -> tuple[int, int] | None:
    """Of a file or folder, however it is named; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _free_path(path: Path, force: bool, read: _Inputs) -> Path:
    read.refuse(path)
    with files.writing(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            pass
        else:
            stream = stat.S_ISLNK(mode) and os.readlink(path).startswith("/proc/")  # /dev/stdout
            mode = os.stat(path).st_mode if path.exists() else mode  # of what a link points to
            if stat.S_ISDIR(mode):
                raise InputError(f"{path} is a folder, and a file is to be written there; choose another path")
            if stream or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise InputError(f"{path} is a pipe or device, and a file is to be written there; choose another path")
            if not force:
                raise InputError(f"{path} exists; choose another path or --force to replace it")
        above = next(folder for folder in path.parents if folder.exists())
        with tempfile.TemporaryFile(dir=above):
            pass
    return path


def _differing(folders: list[tuple[str, ...]]) -> list[list[str]]:
    """Of each folder's parts, counted from the end, those that are not the same for all."""
    depth = max(map(len, folders))
    padded = [("",) * (depth - len(parts)) + parts for parts in folders]
    columns = [index for index, column in enumerate(zip(*padded)) if len(set(column)) > 1]
    return [[parts[index] for index in columns if parts[index].strip(os.sep)] for parts in padded]


def _key(name: str) -> str:
    """Equal for names that a file system may take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
