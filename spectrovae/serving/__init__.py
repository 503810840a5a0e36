"""SavedModels that run where neither Keras nor spectrovae is installed, and a server for them.

Imported on first use: the server has no Keras in its process.
"""

import importlib
from typing import Any

from spectrovae.errors import ParityError

_HOMES = {
    "Client": "client",
    "check_parity": "parity",
    "deploy": "deployment",
    "export": "saved_model",
    "export_parts": "portable",
    "format_parity": "parity",
    "read_export": "saved_model",
}
__all__ = ["ParityError", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
