"""The error a user can mend, and those of a failed check, a server that does not answer, a full disk, a training."""

import contextlib
import errno
import re
from collections.abc import Iterator

OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing of the file they come with: too many files are open, or memory is used up."""


class InputError(ValueError):
    """Input that the caller can correct. The command line prints it in one line and exits with 2.

    What a file name may hold and a line of text may not, such as line breaks and bytes that are no UTF-8, is escaped.
    """

    _keras_call_info_injected = True  # keeps Keras from wrapping the line in a description of the layer's arguments

    def __init__(self, message: str):
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """A text as one line: what a file name may hold and a line may not is escaped."""
    return re.sub("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", _escaped, text)


def _escaped(found: re.Match) -> str:
    return ascii(found[0])[1:-1]


@contextlib.contextmanager
def within_graphs() -> Iterator[None]:
    """Within this block, an InputError or OSError raised inside a TensorFlow graph comes out as one. Also a decorator.

    TensorFlow makes an error of its own of what a Python function in a graph raises, such as the reader of files.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("tensorflow"):
            if refused := re.search(r"\bInputError: (.*)", str(error)):
                raise InputError(refused[1]) from error
            if refused := re.search(r"\bOSError: \[Errno (\d+)\] (.*)", str(error)):
                raise OSError(int(refused[1]), refused[2]) from error
        raise


class ParityError(RuntimeError):
    """An exported model that cannot be loaded, or that differs from the Keras model. The command line exits with 1."""


class ServerError(RuntimeError):
    """A server that cannot be reached, or that refuses a request. The command line exits with 1."""


class StorageError(RuntimeError):
    """A disk that is full or fails while a result is written. The command line exits with 1."""


class TrainingError(RuntimeError):
    """A training that diverged. The command line exits with 1."""
