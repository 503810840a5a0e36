"""Memory of long files."""

import numpy as np
import soundfile


def test_transform_needs_no_more_memory_for_a_long_file(tmp_path, fresh_process):
    """The features of a quarter of an hour alone are 55 MiB, its samples 27 MiB."""
    random = np.random.default_rng(0)
    peaks = []
    for minutes in (1, 15):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(0.1 * random.standard_normal(480000))
        code = """
import resource, sys
from spectrovae.cli import main
assert main(["transform", sys.argv[1], "--out", sys.argv[2]]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
        peaks.append(float(fresh_process(code, path, tmp_path / f"{minutes}").split()[-1]))
    assert peaks[1] - peaks[0] < 40, peaks
