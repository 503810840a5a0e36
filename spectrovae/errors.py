"""The error a user can mend, and the one of a result that fails its own check."""


class InputError(ValueError):
    """Input that the caller can correct. The command line prints it in one line and exits with 2."""

    _keras_call_info_injected = True  # keeps Keras from wrapping the line in a description of the layer's arguments


class ParityError(RuntimeError):
    """An exported model that cannot be loaded, or that differs from the Keras model. The command line exits with 1."""
