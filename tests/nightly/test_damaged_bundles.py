"""Five hundred damaged bundles; damaged runs are in test_exact_resume, recordings in test_fuzzed_audio.

No crash, hang, traceback or silently wrong result. Figures are in docs/results.md.
"""

import itertools
import shutil

import damage
import pytest
import test_damage

saved, sound = test_damage.saved, test_damage.sound


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
