"""A process that is killed, played within the test's own: from some file operation on, none is carried out."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

from spectrovae import files

OPERATIONS = [(os, name) for name in ("replace", "rename", "rmdir", "mkdir", "unlink")]
OPERATIONS += [(shutil, "rmtree"), (files, "_exchange")]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs after it, so no clean-up may count."""


@contextlib.contextmanager
def killed_at(call: int, below) -> Iterator[SimpleNamespace]:
    """Die before operation number ``call`` on a path below ``below``; ``killed`` says whether it came to that.

    The lock's file is left out: it is released when a process ends, and so it is here.
    """
    state = SimpleNamespace(killed=False, calls=0)

    def watched(original):
        def operation(*arguments, **options):
            path = os.fsdecode(arguments[0])
            if path.startswith(str(below)) and os.path.basename(path) != files.LOCK:
                state.calls += 1
                if state.calls > call:
                    raise Killed
            return original(*arguments, **options)

        return operation

    with contextlib.ExitStack() as stack:
        for module, name in OPERATIONS:
            stack.enter_context(mock.patch.object(module, name, watched(getattr(module, name))))
        try:
            yield state
        except Killed:
            state.killed = True
