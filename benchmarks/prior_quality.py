"""What a bundle's prior is worth: bits a code, and what judges hear in the sounds it draws, each digit asked for alike.

    python benchmarks/prior_quality.py BUNDLE --data DATA --judge JUDGE [-n 200] [--guidance 1 2] [--json FILE]

Beside the draws stand real test clips and their reconstructions, heard by the same judge.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from spectrovae.codec import Codec
from spectrovae.data import Recordings
from spectrovae.evaluation.draws import examine_draws
from spectrovae.evaluation.judges import Judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True)
    parser.add_argument("--judge", required=True, help="of labels")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0])
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    codec, judge = Codec.load(options.bundle), Judge.load(options.judge)
    recordings = Recordings.open(options.data, sample_rate=codec.sample_rate, samples=codec.segment_samples)
    found = {"bundle": options.bundle, "kind": codec.learned["kind"]}
    quality = {key: codec.learned[key] for key in codec.learned if key not in ("encoder", "conditions")}
    found |= {"prior": quality, "log2 K": math.log2(codec.learned_prior.classes) if codec.learned_prior.codes else None}
    test = np.concatenate([np.asarray(batch) for batch in recordings.waveforms("test")])
    labels = [example.label for example in recordings.examples("test")]
    again = np.concatenate([codec.reconstruct(test[start : start + 64]) for start in range(0, len(test), 64)])
    for name, sounds in (("real", test), ("reconstruction", again)):
        found[name] = accuracy(judge, sounds, labels, codec.sample_rate)
    names = codec.learned_prior.conditions["label"]
    asked = [names[index % len(names)] for index in range(options.n)]
    for guidance in options.guidance:
        own = {"guidance": guidance} if guidance != 1.0 else {}
        sounds = codec.generate(options.n, label=asked, temperature=options.temperature, seed=options.seed, **own)
        (space,) = examine_draws(sounds, codec, judges=[judge], recordings=recordings)["spaces"]
        found[f"draws, guidance {guidance:g}"] = {
            "accuracy": accuracy(judge, sounds, asked, codec.sample_rate),
            **{key: value for key, value in space.items() if key not in ("space", "unit")},
        }
    text = json.dumps(found, indent=2)
    if options.json:
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    print(text)


def accuracy(judge: Judge, sounds: np.ndarray, labels, sample_rate: int) -> float:
    """Share of sounds in which the judge hears their label."""
    answers, _ = judge.hear(sounds, sample_rate)
    return float(np.mean([judge.labels[place] == label for place, label in zip(answers, labels)]))


if __name__ == "__main__":
    main()
