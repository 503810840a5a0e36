"""Recordings whose labels and speakers can be told: tones of three pitches in two timbres."""

from pathlib import Path

import numpy as np
import soundfile

SAMPLES = 4000


def write_tones(folder: Path, takes: int = 20) -> Path:
    """Half a second each at 8 kHz, named as FSDD names its files: pitch, timbre, take."""
    random = np.random.default_rng(0)
    time = np.arange(SAMPLES) / 8000
    for label, pitch in enumerate((300, 600, 1200)):
        for speaker, partials in (("flute", 1), ("reed", 3)):
            for take in range(takes):
                phases = random.uniform(0, 2 * np.pi, partials)
                tone = sum(np.sin(2 * np.pi * (k + 1) * pitch * time + phases[k]) for k in range(partials))
                tone = random.uniform(0.1, 0.3) * tone + 0.01 * random.standard_normal(SAMPLES)
                soundfile.write(folder / f"{label}_{speaker}_{take}.wav", tone, 8000)
    return folder
