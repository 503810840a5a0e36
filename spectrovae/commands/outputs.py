"""Paths that sub-commands write to: none is another's or an input's, and all are checked before any work."""

import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from spectrovae import files
from spectrovae.errors import InputError

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
    path = Path(path)
    _refuse_inputs(path, inputs)
    with files.writing(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(mode):
                raise InputError(f"{path} is a folder, and a file is to be written there; choose another path")
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise InputError(f"{path} is a pipe or device, and a file is to be written there; choose another path")
            if not force:
                raise InputError(f"{path} exists; choose another folder or --force to replace it")
        above = next(folder for folder in path.parents if folder.exists())
        with tempfile.TemporaryFile(dir=above):
            pass
    return path


def free_paths(
    folder: str | os.PathLike, inputs: Sequence[str], *, force: bool, ending: str = ".wav", bundle: str | None = None
) -> list[Path]:
    """The file in ``folder`` that each input's result is written to; see :func:`output_names` and :func:`free_path`."""
    read = [*inputs, *([bundle] if bundle is not None else [])]
    return [free_path(Path(folder) / name, force, read) for name in output_names(inputs, ending)]


def check_folder(out: str | os.PathLike, *, force: bool, mark: str, inputs: Iterable[str | os.PathLike] = ()) -> None:
    """Check a folder that is replaced in one step: as ``files.check_output``, and no input may lie in it.

    Raises:
        InputError: the folder is, holds or lies in an input, or as ``files.check_output``.
    """
    sources = [Path(source) for source in inputs]
    _refuse_inputs(Path(out), sources)
    for source in sources:
        if source.exists() and Path(os.path.realpath(source)).is_relative_to(os.path.realpath(out)):
            raise InputError(f"{out} holds the input {source} and would be replaced with it; choose another folder")
    files.check_output(out, force=force, mark=mark)


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


def _refuse_inputs(path: Path, inputs: Iterable[str | os.PathLike]) -> None:
    there = os.path.exists(path)
    real = Path(os.path.realpath(path.parent)) / path.name
    for source in map(Path, inputs):
        if not source.exists():
            continue
        if there and any(path.samefile(file) for file in _files(source)):
            raise InputError(f"{path} is the input {source}, which is never overwritten; choose another path for it")
        folder = Path(os.path.realpath(source))
        if source.is_dir() and (real.is_relative_to(folder) or Path(os.path.realpath(path)).is_relative_to(folder)):
            raise InputError(f"{path} lies in the input {source}; choose a path outside it")


def _files(source: Path) -> list[Path]:
    """A file; or a folder and the files in it."""
    return [source, *(entry for entry in source.iterdir() if entry.is_file())] if source.is_dir() else [source]


def _differing(folders: list[tuple[str, ...]]) -> list[list[str]]:
    """Of each folder's parts, counted from the end, those that are not the same for all."""
    depth = max(map(len, folders))
    padded = [("",) * (depth - len(parts)) + parts for parts in folders]
    columns = [index for index, column in enumerate(zip(*padded)) if len(set(column)) > 1]
    return [[parts[index] for index in columns if parts[index].strip(os.sep)] for parts in padded]


def _key(name: str) -> str:
    """Equal for names that a file system may take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
