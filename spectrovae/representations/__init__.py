"""Normalised time-frequency representations: Keras layers that turn waveforms into features and back."""

from spectrovae.representations.base import NORMALISATIONS, Representation, load
from spectrovae.representations.log_mel import LogMel
from spectrovae.representations.log_stft import LogSTFT
from spectrovae.representations.magnitude_phase import MagnitudePhase
from spectrovae.representations.mdct import MDCT
from spectrovae.representations.spectrum import Spectrum
from spectrovae.representations.waveform import Chunks, Subbands, Waveform

REPRESENTATIONS = {
    "log-stft": LogSTFT,
    "log-mel": LogMel,
    "magnitude-phase": MagnitudePhase,
    "mdct": MDCT,
    "spectrum": Spectrum,
    "subbands": Subbands,
    "chunks": Chunks,
}

__all__ = [
    "Chunks",
    "LogMel",
    "MDCT",
    "NORMALISATIONS",
    "REPRESENTATIONS",
    "LogSTFT",
    "MagnitudePhase",
    "Representation",
    "Spectrum",
    "Subbands",
    "Waveform",
    "load",
]
