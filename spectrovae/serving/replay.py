"""Run a SavedModel on recorded requests in a process that has no Keras and no spectrovae: ``replay.py MODEL IN OUT``.

Started as a script by :mod:`spectrovae.serving.parity`. ``IN`` and ``OUT`` are ``.npz`` files; their arrays are named
``CASE/SIGNATURE/TENSOR``.
"""

import sys
from collections import defaultdict

ABSENT = ("keras", "tf_keras", "spectrovae")


class Hiding:
    """A finder of modules that does not find the absent packages, as where they are not installed."""

    def __init__(self, finder, absent=ABSENT):
        self.finder = finder
        self.absent = absent

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, fullname, path=None, target=None):
        return None if fullname.split(".")[0] in self.absent else self.finder.find_spec(fullname, path, target)


def main(model: str, requests: str, results: str) -> None:
    import numpy as np
    import tensorflow as tf

    signatures = tf.saved_model.load(model).signatures
    inputs: dict[str, dict] = defaultdict(dict)
    with np.load(requests, allow_pickle=False) as recorded:
        for key in recorded.files:
            case, name = key.rsplit("/", 1)
            inputs[case][name] = tf.constant(recorded[key])
    outputs = {
        f"{case}/{name}": tensor.numpy()
        for case, tensors in inputs.items()
        for name, tensor in signatures[case.split("/")[1]](**tensors).items()
    }
    loaded = sorted(name for name in sys.modules if name.split(".")[0] in ABSENT)
    if loaded:
        raise ImportError(f"loaded all the same: {', '.join(loaded)}")
    np.savez(results, **outputs)


if __name__ == "__main__":
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    main(*sys.argv[1:])
