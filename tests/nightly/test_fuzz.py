"""Five thousand mutated recordings and five hundred damaged bundles; the damaged runs are in test_exact_resume.

No crash, hang, traceback or silently wrong result. Figures are in docs/results.md.
"""

import itertools
import shutil

import damage
import odd_audio
import pytest
import test_damage
import test_odd_audio

LOTS, LOT = 10, 500

saved, sound = test_damage.saved, test_damage.sound


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(1, LOTS + 1))
def test_mutated_recordings_are_read_as_they_were_scanned(seed, tmp_path):
    test_odd_audio.compare_mutations(tmp_path, odd_audio.mutations(LOT, seed))


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_damaged_bundle_is_the_same_or_refused(seed, saved, sound, tmp_path):
    outcomes = []
    for number, (kind, harm) in enumerate(itertools.islice(damage.damages(seed), 100)):
        copy = shutil.copytree(saved, tmp_path / str(number) / "model")
        harm(copy)
        outcomes.append((kind, damage.outcome(copy, sound)))
        shutil.rmtree(copy.parent)
    assert len(outcomes) == 100
    assert sum(result == "refused" for _, result in outcomes) > 30
