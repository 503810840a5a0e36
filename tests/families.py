"""What each family takes, for tests that go over all of them."""

from spectrovae.models import FAMILIES
from spectrovae.representations import REPRESENTATIONS, Waveform

SPECTROGRAM_FAMILIES = [name for name, cls in FAMILIES.items() if cls.representation_name is None]
SPECTROGRAMS = [name for name, cls in REPRESENTATIONS.items() if not issubclass(cls, Waveform)]
PAIRS = [(family, name) for family in SPECTROGRAM_FAMILIES for name in SPECTROGRAMS] + [
    (name, cls.representation_name) for name, cls in FAMILIES.items() if cls.representation_name
]
ONE_OF_EACH = [*zip(SPECTROGRAM_FAMILIES, SPECTROGRAMS), *PAIRS[len(SPECTROGRAM_FAMILIES) * len(SPECTROGRAMS) :]]
OTHER_PAIRS = [pair for pair in PAIRS if pair not in ONE_OF_EACH]
"""Run in tests/nightly."""

SHAPES = {"rave": [(4, 256, 1), (1, 160, 1), (2, 128, 1)], "waveform-vae": [(1024, 1, 1), (700, 1, 1), (130, 1, 1)]}


def shapes(family: str) -> list[tuple[int, int, int]]:
    """Of features: two of one channel, and an odd one."""
    return SHAPES.get(family, [(64, 16, 1), (100, 33, 1), (7, 5, 2)])
