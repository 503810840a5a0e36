"""The parser of the command line: errors in one line that say what was expected."""

import argparse
import difflib
import math
import os
from collections.abc import Sequence
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which names the option that an unknown one is nearest to.

    What a command's parser returns has ``given`` too, the names of the options that are on the command line.
    """

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.register("type", int, whole_number)
        self.register("type", float, number)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        message = " ".join(message.split())
        self.exit(2, f"spectrovae: error: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, but what is unknown is an error of the sub-command that does not know it."""
        if self._subparsers is None and args is not None:
            self._refuse_unknown(args)
        namespace, extra = super().parse_known_args(args, namespace)
        if extra and self._subparsers is None:
            text = "an argument that is not expected" if len(extra) == 1 else "arguments that are not expected"
            dashes = [name for name in extra if name.startswith("-") and os.path.exists(name)]
            hint = f"; write ./{dashes[0]} for a file whose name begins with -" if dashes else ""
            self.error(f"received {text}: {' '.join(extra)}{hint}")
        if self._subparsers is None:
            namespace.given = self._given(args)
        return namespace, extra

    def _given(self, args) -> frozenset[str]:
        # argparse checks the default of an optional positional argument against its choices: it stays as it is.
        defaults = {action: action.default for action in self._actions if action.option_strings}
        try:
            for action in defaults:
                action.default = argparse.SUPPRESS
            given, _ = super().parse_known_args(args, argparse.Namespace())
        finally:
            for action, default in defaults.items():
                action.default = default
        absent = {action.dest for action in self._actions if not action.option_strings and action.default is None}
        absent = {name for name in absent if getattr(given, name, None) is None}
        return frozenset(vars(given)) - absent - frozenset(self._defaults)

    def _refuse_unknown(self, args: Sequence[str]) -> None:
        known = list(self._option_string_actions)
        for text in args:
            name = text.partition("=")[0]
            if name == "--":
                return
            if not name.startswith("--") or any(option.startswith(name) for option in known):
                continue
            near = difflib.get_close_matches(name, known, 1)
            self.error(f"there is no option {name}" + (f" (did you mean {near[0]}?)" if near else ""))


def whole_number(text: str, least: int | None = None) -> int:
    """The whole number that an option takes."""
    expected = "must be a whole number" + (f" from {least} up" if least is not None else "")
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or (least is not None and value < least):
        raise argparse.ArgumentTypeError(f"{expected}, received {text!r}")
    return value


def number(text: str) -> float:
    """The finite number that an option takes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, received {text!r}")
    return value
