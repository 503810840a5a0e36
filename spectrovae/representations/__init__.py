"""Normalised time-frequency representations: Keras layers that turn waveforms into features and back."""

from spectrovae.representations.base import NORMALISATIONS, Representation, load
from spectrovae.representations.log_stft import LogSTFT

REPRESENTATIONS = {"log-stft": LogSTFT}

__all__ = ["NORMALISATIONS", "REPRESENTATIONS", "LogSTFT", "Representation", "load"]
