"""The command ``spectrovae``, also as ``python -m spectrovae``."""

import sys


def main() -> int:
    """Run the command line, and answer Ctrl-C while it is imported as well; return its exit code."""
    sys.unraisablehook = _in_a_destructor
    try:
        from spectrovae import cli

        return cli.main()
    except KeyboardInterrupt:
        print("spectrovae: interrupted", file=sys.stderr)
        return 130


def _in_a_destructor(error) -> None:
    """An archive that could not be written fails again when its object goes; the command has answered for it."""
    if not issubclass(error.exc_type, OSError):
        sys.__unraisablehook__(error)


if __name__ == "__main__":
    sys.exit(main())
