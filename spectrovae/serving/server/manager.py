"""Models and their versions: loaded as they appear on disk, drained and unloaded as they go."""

import asyncio
import dataclasses
import gc
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from spectrovae.errors import InputError
from spectrovae.serving.server import config
from spectrovae.serving.server.errors import RequestError, invalid
from spectrovae.serving.server.servable import Servable

log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Version:
    """A version and where it is in its life: START, LOADING, AVAILABLE, UNLOADING, END, as TensorFlow Serving says."""

    model: str
    number: int
    path: Path
    state: str = "START"
    code: str = "OK"
    message: str = ""
    servable: Any = None  # a Servable from AVAILABLE to the end of UNLOADING
    users: int = 0
    stamp: tuple = ()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The version that a request asks for: by number, by label, or the newest."""

    name: str
    number: int | None = None
    label: str | None = None


class Manager:
    """All versions of all models. Used from one event loop; loading alone happens in ``executor``.

    Args:
        folder: see :func:`config.models`.
        load: makes a servable of a path.
        executor: where it does.
        poll: seconds between two looks at the folder.
    """

    def __init__(self, folder: Path, load: Callable[[Path], Servable], executor: Executor, poll: float):
        self._folder = folder
        self._load = load
        self._executor = executor
        self._poll = poll
        self._models: dict[str, config.Model] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._unloading: set[asyncio.Task] = set()

    def versions(self, wanted: Wanted) -> list[Version]:
        """The versions whose status is asked for, oldest first.

        Raises:
            RequestError: there is none.
        """
        known = self._versions.get(wanted.name, {})
        if wanted.label is not None:
            known = {number: each for number, each in known.items() if number == self._labelled(wanted)}
        elif wanted.number is not None:
            if wanted.number not in known:
                raise RequestError("NOT_FOUND", f"Could not find version {wanted.number} of model {wanted.name}")
            return [known[wanted.number]]
        if not known:
            raise RequestError("NOT_FOUND", f"Could not find any versions of model {wanted.name}; {self._known()}")
        return [known[number] for number in sorted(known)]

    def take(self, wanted: Wanted) -> Version:
        """An available version, which stays loaded until it is given back.

        Raises:
            RequestError: there is none.
        """
        known = self._versions.get(wanted.name, {})
        number = self._labelled(wanted) if wanted.label is not None else wanted.number
        ready = [each for each in known.values() if each.state == "AVAILABLE" and number in (None, each.number)]
        if not ready:
            which = f"Latest({wanted.name})" if number is None else f"Specific({wanted.name}, {number})"
            raise RequestError("NOT_FOUND", f"Servable not found for request: {which}; {self._known()}")
        version = max(ready, key=lambda each: each.number)
        version.users += 1
        return version

    def give_back(self, version: Version) -> None:
        """End what :meth:`take` began."""
        version.users -= 1

    def available(self) -> list[Version]:
        """The versions that answer requests."""
        return [each for known in self._versions.values() for each in known.values() if each.state == "AVAILABLE"]

    def failures(self) -> list[str]:
        """Why versions could not be loaded."""
        return [each.message for known in self._versions.values() for each in known.values() if each.message]

    async def watch(self) -> None:
        """Follow the folder until cancelled."""
        while True:
            await asyncio.sleep(self._poll)
            try:
                await self.refresh()
            except (InputError, OSError) as error:
                log.warning("the folder of models cannot be read, its models stay as they are: %s", error)
            except Exception:  # tried again at the next look
                log.exception("looking for new versions failed, the models stay as they are")

    async def refresh(self) -> None:
        """Load what has appeared, then unload what is not to be served any more."""
        loop = asyncio.get_running_loop()
        self._models = await loop.run_in_executor(self._executor, config.models, self._folder)
        for name in sorted({*self._models, *self._versions}):
            model = self._models.get(name)
            paths = await loop.run_in_executor(self._executor, model.versions) if model else {}
            known = self._versions.setdefault(name, {})
            for number, path in sorted(paths.items()):
                version = known.get(number)
                stamp = _stamp(path)
                # A version that failed is tried again when its files change.
                if version is None or (version.state == "END" and (version.code == "OK" or version.stamp != stamp)):
                    known[number] = version = Version(name, number, path, stamp=stamp)
                    await self._bring_up(version)
            ready = [each for each in known.values() if each.state == "AVAILABLE"]
            if paths and not any(each.number in paths for each in ready):
                continue  # the new versions failed: what worked goes on
            for version in ready:
                if version.number not in paths:
                    self._retire(version)

    async def _bring_up(self, version: Version) -> None:
        version.state = "LOADING"
        title = f"{version.model} version {version.number}"
        try:
            version.servable = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._load, version.path
            )
        except Exception as error:  # whatever is wrong with one folder, the others are served
            reason = str(error).strip().splitlines() or [type(error).__name__]
            version.state, version.code, version.message = "END", "UNKNOWN", f"cannot load {version.path}: {reason[0]}"
            log.error("%s: %s", title, version.message)
            return
        version.state = "AVAILABLE"
        log.info("%s: available, %d warm-up requests replayed", title, version.servable.warmed)

    def _retire(self, version: Version) -> None:
        version.state = "UNLOADING"  # takes no new requests
        task = asyncio.ensure_future(self._unload(version))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, version: Version) -> None:
        while version.users:
            await asyncio.sleep(0.05)
        version.servable = None
        await asyncio.get_running_loop().run_in_executor(self._executor, gc.collect)  # a loaded graph is full of cycles
        version.state = "END"
        log.info("%s version %d: unloaded", version.model, version.number)

    def _labelled(self, wanted: Wanted) -> int:
        model = self._models.get(wanted.name)
        labels = dict(model.labels) if model else {}
        if wanted.label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise invalid(f"Unrecognized servable version label: {wanted.label}; labels of {wanted.name}: {known}")
        return labels[wanted.label]

    def _known(self) -> str:
        texts = sorted(f"{each.model} {each.number}" for each in self.available())
        return f"available: {', '.join(texts) or 'none'}"


def _stamp(path: Path) -> tuple:
    """Changes when the files of a version do."""
    entries = [path, path / "saved_model.pb", path / "variables", path / "variables" / "variables.index"]
    return tuple((entry.stat().st_ino, entry.stat().st_mtime_ns) if entry.exists() else None for entry in entries)
