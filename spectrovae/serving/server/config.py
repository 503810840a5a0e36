"""Which models a folder serves: what its ``models.config`` says, or else every NAME/VERSION in it."""

import dataclasses
import json
import re
from pathlib import Path

from spectrovae.errors import InputError

CONFIG = "models.config"
VERSION = re.compile("[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to serve: its name, its folder of versions, and which of them.

    Args:
        name: in requests.
        base: folder whose sub-folders are named by their versions.
        newest: how many of the newest to serve; 0 for all.
        specific: the versions to serve, in place of the newest.
        labels: names of versions.
    """

    name: str
    base: Path
    newest: int = 1
    specific: tuple[int, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()

    def versions(self) -> dict[int, Path]:
        """The versions to serve of those on disk."""
        found = _versions(self.base)
        if self.specific:
            return {number: path for number, path in found.items() if number in self.specific}
        return {number: found[number] for number in sorted(found)[-self.newest :]}


def is_version(path: Path) -> bool:
    """Whether a path is the folder of a version: named by a number that gRPC's int64 can say, and a folder."""
    return VERSION.fullmatch(path.name) is not None and path.is_dir()


def _versions(folder: Path) -> dict[int, Path]:
    """The versions in a folder; none where it cannot be read, so that the others are served."""
    try:
        return {int(entry.name): entry for entry in folder.iterdir() if is_version(entry)}
    except OSError:
        return {}


def models(folder: Path) -> dict[str, Model]:
    """The models of a folder, by name.

    Raises:
        InputError: a ``models.config`` that cannot be read, or says what the stand-in cannot do.
    """
    file = folder / CONFIG
    if file.exists():
        return _configured(folder, file)
    return {
        entry.name: Model(entry.name, entry)
        for entry in sorted(folder.iterdir())
        if not entry.name.startswith(".") and _versions(entry)
    }


def check(folder: Path) -> None:
    """
    Raises:
        InputError: nothing to serve in ``folder``.
    """
    if models(folder):
        return
    hint = "; serve the folder above it" if _versions(folder) else ""
    raise InputError(f"no model in {folder}: expected NAME/VERSION/saved_model.pb, as spectrovae export writes{hint}")


def as_text(served: dict[str, Model]) -> str:
    """A ``models.config`` for tensorflow_model_server."""
    return "model_config_list {\n" + "".join(map(_entry, served.values())) + "}\n"


def _entry(model: Model) -> str:
    if model.specific:
        policy = "specific { " + "".join(f"versions: {number} " for number in model.specific) + "}"
    else:
        policy = f"latest {{ num_versions: {model.newest} }}" if model.newest else "all {}"
    labels = "".join(
        f"    version_labels {{ key: {json.dumps(label)} value: {number} }}\n" for label, number in model.labels
    )
    return (
        f"  config {{\n    name: {json.dumps(model.name)}\n    base_path: {json.dumps(str(model.base.resolve()))}\n"
        f'    model_platform: "tensorflow"\n    model_version_policy {{ {policy} }}\n{labels}  }}\n'
    )


def _configured(folder: Path, file: Path) -> dict[str, Model]:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    if not file.is_file():
        raise InputError(f"{file} is no file; move it away")
    try:
        parsed = text_format.Parse(file.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InputError(f"{file} is no configuration of TensorFlow Serving: {error}") from error
    found = {}
    for entry in parsed.model_config_list.config:
        # Written for a container, the base path may be one of its own: there the models lie beside the file.
        base = Path(entry.base_path)
        if not base.is_dir():
            base = folder / base.name
        policy = entry.model_version_policy
        newest = 0 if policy.HasField("all") else policy.latest.num_versions or 1
        labels = tuple(sorted(entry.version_labels.items()))
        found[entry.name] = Model(entry.name, base, newest, tuple(policy.specific.versions), labels)
    return found
