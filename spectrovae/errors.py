"""The error a user can mend, and those of a failed check, a server that does not answer, a full disk, a training."""


class InputError(ValueError):
    """Input that the caller can correct. The command line prints it in one line and exits with 2."""

    _keras_call_info_injected = True  # keeps Keras from wrapping the line in a description of the layer's arguments


class ParityError(RuntimeError):
    """An exported model that cannot be loaded, or that differs from the Keras model. The command line exits with 1."""


class ServerError(RuntimeError):
    """A server that cannot be reached, or that refuses a request. The command line exits with 1."""


class StorageError(RuntimeError):
    """A disk that is full or fails while a result is written. The command line exits with 1."""


class TrainingError(RuntimeError):
    """A training that diverged. The command line exits with 1."""
