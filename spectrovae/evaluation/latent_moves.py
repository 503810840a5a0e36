"""What becomes of the sound where a latent is moved, drawn, or led from one clip to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrovae.evaluation.latent_figures import Label
from spectrovae.evaluation.latent_space import (
    LatentSpace,
    Points,
    Traversal,
    nearest_db,
    path_figures,
    spread_db,
)
from spectrovae.pca import PrincipalComponents

CANDIDATES = 256
"""Of a group of more dimensions, those that vary most are moved to see what they do."""
AXES = 3
"""Principal axes that are traversed."""
DRAWS = 16
"""Points drawn at random."""
STEPS = 10
"""Steps of an interpolation."""
MESH = 7
"""Points of the mesh along each of its two axes."""


def levels_of(db: np.ndarray) -> np.ndarray:
    """The level in dB of each, in a row [shape=(clips, cells)]."""
    return np.asarray(db[..., 0]).reshape(len(db), -1)


def _at(space: LatentSpace, index: int, rows: np.ndarray, centre: Points) -> Points:
    """Points whose group ``index`` is as given, and the others in the middle."""
    return [rows if place == index else np.repeat(c[None], len(rows), axis=0) for place, c in enumerate(centre)]


def measure_effects(
    space: LatentSpace, index: int, z: np.ndarray, centre: Points, scale: Points, span: float
) -> list[dict[str, Any]]:
    """What moving a dimension from -span to span does, RMS in dB; of a large group, for those that vary most."""
    deviation = z.std(axis=0)
    chosen = np.sort(np.argsort(-deviation, kind="stable")[:CANDIDATES])
    rows = []
    for part in np.array_split(chosen, -(-len(chosen) // 16)):
        moved = np.repeat(centre[index][None], 2 * len(part), axis=0)
        for place, dimension in enumerate(part):
            moved[2 * place, dimension] -= span * scale[index][dimension]
            moved[2 * place + 1, dimension] += span * scale[index][dimension]
        ends = levels_of(space.decode(_at(space, index, moved, centre)))
        change = np.sqrt(np.mean((ends[1::2].astype(np.float64) - ends[::2]) ** 2, axis=1))
        rows += [
            {"dimension": int(d), "deviation": float(deviation[d]), "change_db": float(c)} for d, c in zip(part, change)
        ]
    return rows


def traverse(
    space: LatentSpace, index: int, effects: Sequence[dict[str, Any]], pca: PrincipalComponents, centre: Points,
    scale: Points, span: float, points: int, dimensions: int,
) -> list[Traversal]:  # fmt: skip
    group, places = space.groups[index], np.linspace(-span, span, points)
    strongest = sorted(effects, key=lambda row: -row["change_db"])[: min(dimensions, group.dimensions)]
    lines = []
    for row in strongest:
        direction = np.zeros(group.dimensions, np.float32)
        direction[row["dimension"]] = scale[index][row["dimension"]]
        lines.append((f"dimension {row['dimension']}", centre[index], direction))
    for axis, (component, variance) in enumerate(zip(pca.components[:AXES], pca.variances), start=1):
        lines.append((f"axis {axis}", pca.mean.ravel(), component * np.sqrt(variance)))
    found = []
    for name, middle, direction in lines:
        rows = (middle + places[:, None] * direction).astype(np.float32)
        found.append(Traversal(group.name, name, places, space.decode(_at(space, index, rows, centre))))
    return found


def decode_mesh(
    space: LatentSpace, group: dict[str, Any], pca: PrincipalComponents, centre: Points, scale: Points, span: float
) -> tuple[np.ndarray, tuple[str, str]]:
    """A mesh over [-span, span] in the plane of the two strongest dimensions of the first group; of a map, of its
    first two principal axes. Rows from the top down, as it is drawn."""
    size, directions, names = space.groups[0].dimensions, [], []
    if len(space.groups[0].shape) == 1:
        middle = centre[0]
        for row in sorted(group["moved"], key=lambda row: -row["change_db"])[:2]:
            directions.append(np.eye(1, size, row["dimension"], dtype=np.float32)[0] * scale[0])
            names.append(f"dimension {row['dimension']}")
    else:
        middle = pca.mean.ravel()
        directions = [c * np.sqrt(v) for c, v in zip(pca.components[:2], pca.variances)]
        names = [f"axis {number}" for number in range(1, len(directions) + 1)]
    directions += [np.zeros(size, np.float32)] * (2 - len(directions))
    names += [""] * (2 - len(names))
    steps = np.linspace(-span, span, MESH)
    rows = [middle + x * directions[0] + y * directions[1] for y in steps[::-1] for x in steps]
    decoded = space.decode(_at(space, 0, np.array(rows, np.float32), centre))
    return decoded.reshape(MESH, MESH, *decoded.shape[1:]), (names[0], names[1])


def draw(
    space: LatentSpace, centre: Points, scale: Points, span: float, real: np.ndarray, random: np.random.Generator
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Points drawn evenly in the box and from a normal, decoded; how far from a clip and from each other they are."""
    normal = "prior N(0, I)" if space.kind == "posterior" else "normal, as wide as the clips"
    drawn = {
        f"even in [−{span:g}, {span:g}]": [random.uniform(-span, span, (DRAWS, len(c))) for c in centre],
        normal: [random.standard_normal((DRAWS, len(c))) for c in centre],
    }
    draws, rows = {}, []
    for name, units in drawn.items():
        points = [(c + s * unit).astype(np.float32) for c, s, unit in zip(centre, scale, units)]
        draws[name] = space.decode(points)
        levels = levels_of(draws[name])
        rows.append({
            "name": name, "draws": DRAWS, "nearest_db": float(np.mean(nearest_db(levels, real))),
            "spread_db": spread_db(levels),
        })  # fmt: skip
    nearest = float(np.mean(nearest_db(real, real, themselves=True)))
    rows.append({"name": "clips", "draws": len(real), "nearest_db": nearest, "spread_db": spread_db(real)})
    return draws, rows


def choose_pairs(labels: Sequence[Label], clips: int, count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of clips, of different classes where the first label has classes."""
    values = labels[0].values if labels and not labels[0].numeric else np.arange(clips)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        a, b = (int(number) for number in random.integers(clips, size=2))
        if a != b and values[a] != values[b]:
            found.append((a, b))
    return found


def interpolate(
    space: LatentSpace, features: np.ndarray, real: np.ndarray, pairs: Sequence[tuple[int, int]], names: Sequence[str]
) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], dict[str, Any]]:
    """Lines between latents, beside straight mixing in dB of the same two ends, both as spectrograms."""
    weights = np.linspace(0.0, 1.0, STEPS + 1, dtype=np.float32)
    rows: dict[str, list[dict[str, float]]] = {"latent": [], "mix": []}
    lengths: list[np.ndarray] = []
    kept: list[tuple[str, np.ndarray, np.ndarray]] = []
    for first, second in pairs:
        ends = space.encode_whole(features[[first, second]])
        line = [(1 - weights)[:, None] * z[:1] + weights[:, None] * z[1:] for z in ends]
        decoded = space.decode(line)
        across = weights.reshape(-1, 1, 1, 1)
        mixed = (1 - across) * decoded[:1] + across * decoded[-1:]
        levels = {"latent": levels_of(decoded), "mix": levels_of(mixed)}
        measured = {name: path_figures(path) for name, path in levels.items()}
        if measured["latent"] is None or measured["mix"] is None:
            continue
        for name, path in levels.items():
            middle = path[STEPS // 2 : STEPS // 2 + 1]
            others = np.delete(real, [first, second], axis=0)
            figures = measured[name] or {}
            rows[name].append({
                **figures, "nearest_db": float(nearest_db(middle, others)[0]),
                "from_mix_db": float(np.sqrt(np.mean((middle - levels["mix"][STEPS // 2]) ** 2))),
            })  # fmt: skip
        steps = np.sqrt(np.mean(np.diff(levels["latent"].astype(np.float64), axis=0) ** 2, axis=1))
        lengths.append(steps / max(steps.mean(), 1e-12))
        if len(kept) < 2:
            kept.append((f"{names[first]} and {names[second]}", decoded, mixed))
    if not lengths:
        return [], {"pairs": 0, "steps": STEPS, "rows": []}
    summary = []
    for name, title in (("latent", "line in the latent"), ("mix", "straight mix in dB")):
        row: dict[str, Any] = {"name": title}
        for key in rows[name][0]:
            values = np.array([figures[key] for figures in rows[name]])
            row[key] = float(values.mean())
            row[f"{key}_low"], row[f"{key}_high"] = (float(v) for v in np.quantile(values, (0.1, 0.9)))
        summary.append(row)
    profile = np.array(lengths)
    return kept, {
        "pairs": len(lengths),
        "steps": STEPS,
        "rows": summary,
        "profile": {
            "mean": profile.mean(axis=0).tolist(),
            "low": np.quantile(profile, 0.1, axis=0).tolist(),
            "high": np.quantile(profile, 0.9, axis=0).tolist(),
        },
    }
