"""The command ``spectrovae``, also as ``python -m spectrovae``."""

import sys


def main() -> int:
    """Run the command line, and answer Ctrl-C while it is imported as well; return its exit code."""
    try:
        from spectrovae import cli

        return cli.main()
    except KeyboardInterrupt:
        print("spectrovae: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
