"""Train a judge of the digit or the speaker, and look at what it mistakes: what `spectrovae fit-judge` does, in Python.

python scripts/fit_judge.py label recordings judges/digits
python scripts/fit_judge.py speaker recordings judges/speakers
"""

import argparse
from collections import Counter

import numpy as np

import spectrovae as sv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("target", choices=("label", "speaker"))
parser.add_argument("data", help="folder or manifest of recordings whose names tell label and speaker")
parser.add_argument("out", help="folder of the judge")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

recordings = sv.data.Recordings.open(options.data)
judge = sv.training.fit_judge(options.target, recordings, options.out, epochs=options.epochs, seed=options.seed)

truth = judge.truth(recordings.examples("test"))
batches = recordings.waveforms("test", 64)
answers = np.concatenate([judge.hear(np.asarray(batch), recordings.sample_rate)[0] for batch in batches])
print(f"{np.mean(answers == truth):.1%} of {len(truth)} test clips")
mistakes = Counter((judge.labels[right], judge.labels[said]) for right, said in zip(truth, answers) if right != said)
for (right, said), count in mistakes.most_common(5):
    print(f"  {right} taken for {said}: {count}")
