"""The one error a user can mend: wrong input, a wrong path, a file that is not what it claims to be."""


class InputError(ValueError):
    """Input that the caller can correct. The command line prints it in one line and exits with 2."""

    _keras_call_info_injected = True  # keeps Keras from wrapping the line in a description of the layer's arguments
