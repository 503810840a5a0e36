"""The state of a training on disk: variables and progress in one file, replaced at once, checked when it is read."""

import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spectrovae import archives, files
from spectrovae.errors import InputError

Groups = dict[str, list]
"""Keras variables or arrays, by kind."""


def variables_of(model: keras.Model, *, metrics: bool = False) -> Groups:
    """All that a training step changes: weights and noise generators, the optimizer's variables, perhaps metrics."""
    optimizer: Any = model.optimizer
    groups = {
        "model": [*model.trainable_variables, *model.non_trainable_variables],
        "optimizer": list(getattr(optimizer, "variables")),  # noqa: B009
    }
    if metrics:
        groups["metrics"] = [variable for metric in model.metrics for variable in metric.variables]
    return groups


def finite(model: keras.Model) -> bool:
    """Whether all trained weights are finite numbers."""
    return all(np.isfinite(np.asarray(variable)).all() for variable in model.trainable_variables)


def write(path: Path, progress: dict[str, Any], groups: Groups) -> None:
    """Write a state.

    Raises:
        StorageError, InputError: as :func:`spectrovae.files.replacing`.
    """
    arrays: dict[str, Any] = {f"{kind}/{i}": np.asarray(v) for kind in groups for i, v in enumerate(groups[kind])}
    with files.replacing(path) as temporary:
        np.savez(temporary, progress=np.array(json.dumps(progress)), **arrays)


def read_progress(path: Path) -> dict[str, Any]:
    """The progress of a state; empty where there is none.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return {}
    progress = _read(path, lambda kept: json.loads(str(kept["progress"])))
    if not isinstance(progress, dict):
        raise damaged(path, "its progress is no object")
    return progress


def read_group(path: Path, kind: str) -> list[np.ndarray]:
    """The arrays of one kind.

    Raises:
        InputError: the file is damaged.
    """

    def arrays(kept):
        names = {name for name in kept.files if name.startswith(f"{kind}/")}
        return [kept[f"{kind}/{index}"] for index in range(len(names))]

    return _read(path, arrays)


def restore(path: Path, groups: Groups) -> None:
    """Assign the arrays of a state to the variables; where one does not fit, none is changed.

    Raises:
        InputError: the file is damaged or belongs to another model.
    """
    pairs: list[tuple[Any, np.ndarray, str]] = []
    for kind, variables in groups.items():
        arrays = read_group(path, kind)
        if len(arrays) != len(variables):
            raise damaged(path, f"it has {len(arrays)} arrays of the {kind} where {len(variables)} are expected")
        pairs += zip(variables, arrays, [kind] * len(arrays))
    for variable, array, kind in pairs:
        expected = np.asarray(variable)
        if array.shape != expected.shape or array.dtype != expected.dtype:
            received = f"{array.dtype} {array.shape} for {expected.dtype} {expected.shape}"
            raise damaged(path, f"it has {received} of {variable.path}")
        if kind == "model" and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise damaged(path, f"{variable.path} is not finite")
    for variable, array, _ in pairs:
        variable.assign(array)


def count(value: Any, least: int = 0, most: float = math.inf) -> bool:
    """Whether a value read from JSON is a whole number within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(value: Any) -> bool:
    """Whether a value read from JSON is a number; NaN and infinities are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def damaged(path: Path, reason: object) -> InputError:
    """The error of a state that cannot be used."""
    line = (str(reason).splitlines() or [type(reason).__name__])[0]
    return InputError(f"{path} is damaged ({line}); --force starts over")


def _read(path: Path, reader) -> Any:
    try:
        with archives.open_arrays(path, limit=math.inf) as kept:
            return reader(kept)
    except Exception as error:  # a damaged archive fails in many ways: zipfile, zlib, struct, memory, encodings
        raise damaged(path, error) from error
