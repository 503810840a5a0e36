"""Thousands of mutated audio files: what the scan accepts is what training reads, and nothing crashes or hangs."""

import odd_audio
import pytest
from test_odd_audio import compare_mutations


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
def test_mutated_audio_files(tmp_path, seed):
    compare_mutations(tmp_path, odd_audio.mutations(1000, 100 + seed))
