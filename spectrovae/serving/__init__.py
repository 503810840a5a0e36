"""SavedModels that run where neither Keras nor spectrovae is installed."""

from spectrovae.errors import ParityError
from spectrovae.serving.parity import check_parity, format_parity
from spectrovae.serving.saved_model import export, read_export

__all__ = ["ParityError", "check_parity", "export", "format_parity", "read_export"]
