"""SavedModels that run where neither Keras nor spectrovae is installed."""

from spectrovae.serving.export import export, read_export
from spectrovae.serving.parity import ParityError, check_parity

__all__ = ["ParityError", "check_parity", "export", "read_export"]
