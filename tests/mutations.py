"""Damage of run folders for fuzz tests: other types and numbers in JSON, other arrays in states, broken bytes."""

import copy
import json

import numpy as np

VALUES = (
    None, True, False, 0, -1, 1, 2.5, 10**9, 10**30, -1e300, float("nan"), float("inf"), "", "x", "1", "../x", "\x00",
    "é" * 300, [], {}, [1, [2, [3]]], {"a": None},
)  # fmt: skip


def spots(value, path=()):
    """Paths of all values within JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from spots(inner, (*path, key))


def mutated(value, random):
    """JSON with one value replaced, removed or added."""
    value = copy.deepcopy(value)
    everywhere = list(spots(value))
    path = everywhere[random.integers(len(everywhere))]
    other = copy.deepcopy(VALUES[random.integers(len(VALUES))])
    if not path:
        return other
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    kind = random.integers(4)
    if kind == 0:
        del parent[path[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[f"new-{random.integers(9)}"] = other
    else:
        parent[path[-1]] = other
    return value


def damaged_bytes(data, random):
    """Bytes that are cut, flipped, or not what they were at all."""
    kind = random.integers(4)
    if kind == 0:
        return data[: random.integers(len(data))]
    if kind == 1:
        return bytes(random.integers(0, 256, random.integers(64), dtype=np.uint8))
    broken = bytearray(data)
    for _ in range(random.integers(1, 20)):
        broken[random.integers(len(broken))] = random.integers(256)
    return bytes(broken)


def damaged_array(array, random):
    """An array of another shape, type or content."""
    kind = random.integers(6)
    if kind == 0:
        return array.astype(np.complex64)
    if kind == 1:
        return np.array(["text"])
    if kind == 2:
        return np.concatenate([np.ravel(array), np.ravel(array)])
    if kind == 3:
        return np.full(array.shape, np.nan, np.float32)
    if kind == 4:
        return array.astype(np.float64)
    return np.array(array[..., None])


def damage_run(folder, random):
    """Change one file of a run folder."""
    config, state = folder / "config.json", folder / "state.npz"
    kind = random.integers(5)
    if kind == 0:
        config.write_text(json.dumps(mutated(json.loads(config.read_text()), random)))
    elif kind in (1, 2):
        file = (config, state)[kind - 1]
        file.write_bytes(damaged_bytes(file.read_bytes(), random))
    else:
        with np.load(state) as kept:
            arrays = {name: kept[name] for name in kept.files}
        names = [name for name in arrays if name != "progress"]
        name = names[random.integers(len(names))]
        if kind == 3:
            arrays["progress"] = np.array(json.dumps(mutated(json.loads(str(arrays["progress"])), random)))
        elif random.integers(3):
            arrays[name] = damaged_array(arrays[name], random)
        else:
            del arrays[name]
        np.savez(state, **arrays)
