"""Run a SavedModel on recorded requests in a process that has no Keras and no spectrovae: ``replay.py MODEL IN OUT``.

Started as a script by :mod:`spectrovae.serving.parity`. ``IN`` and ``OUT`` are ``.npz`` files; arrays of ``IN`` are
named ``CASE/SIGNATURE/TENSOR``, those of ``OUT`` ``LOADER/CASE/SIGNATURE/TENSOR`` with the loaders ``python``
(``tf.saved_model.load``) and ``session`` (the C++ session of TF Serving, where TensorFlow comes with it). ``MODEL``,
``IN`` and ``OUT`` may be followed by more of them.
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
    import c_session  # beside this script
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(model)

    def python(signature, tensors):
        found = loaded.signatures[signature](**{name: tf.constant(array) for name, array in tensors.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    loaders = {"python": python}
    if c_session.library() is not None:
        loaders["session"] = c_session.Session(model).run
    inputs: dict[str, dict] = defaultdict(dict)
    with np.load(requests, allow_pickle=False) as recorded:
        for key in recorded.files:
            case, name = key.rsplit("/", 1)
            inputs[case][name] = recorded[key]
    outputs = {
        f"{loader}/{case}/{name}": array
        for loader, run in loaders.items()
        for case, tensors in inputs.items()
        for name, array in run(case.split("/")[1], tensors).items()
    }
    present = sorted(name for name in sys.modules if name.split(".")[0] in ABSENT)
    if present:
        raise ImportError(f"loaded all the same: {', '.join(present)}")
    np.savez(results, **outputs)


if __name__ == "__main__":
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    for first in range(1, len(sys.argv), 3):
        main(*sys.argv[first : first + 3])
