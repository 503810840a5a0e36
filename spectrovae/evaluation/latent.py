"""A study of one model's latent: its principal axes, what its dimensions do, where its sounds end, how it interpolates.

FOLDER/
  report.html  latent.json  tables/
  coordinates.csv              each clip's labels, error and place on the first principal axes
  sounds/                      traversals, draws and interpolations
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from spectrovae import __version__
from spectrovae.errors import InputError
from spectrovae.evaluation import factors, latent_moves, latent_page, systems
from spectrovae.evaluation.latent_figures import MAX_CLASSES, Label, binned
from spectrovae.evaluation.latent_space import (
    Drawn,
    LatentSpace,
    Points,
    effective_dimensions,
    neighbour_accuracy,
    neighbour_r2,
)
from spectrovae.files import as_json, check_output, new_folder, write_json, write_text
from spectrovae.pca import PrincipalComponents, principal_components

RESULT = "latent.json"
COMPONENTS = 256
"""Principal components that are kept at most."""
COORDINATES = 8
"""Principal axes on which each clip's place is written."""


def latent(
    codec: Any,
    recordings: Any,
    out: str | os.PathLike,
    *,
    split: str = "test",
    limit: int = 1000,
    dimensions: int = 6,
    span: float = 4.0,
    points: int = 9,
    pairs: int = 24,
    seed: int = 0,
    force: bool = False,
    log: systems.Log = systems.to_stderr,
) -> dict[str, Any]:
    """Study the latent of a codec of any family on one split, and write a page, tables and sounds to a folder.

    Latents are moved in units of their prior's deviation, 1, where they have one, otherwise of the deviation that each
    has over the clips. Codes are studied as the vectors that they stand for. Of a U-Net the bottleneck is moved, with
    the skips of one clip; between clips its skips are interpolated too.

    Args:
        limit: clips at most, evenly spaced over the split; three or more.
        dimensions: how many dimensions of each group are traversed, those that change the sound most.
        span: how far latents are moved from the middle, to either side.
        points: of each traversal.
        pairs: of clips between which is interpolated.
        seed: of draws and pairs.
        force: replace the result of an earlier run.

    Returns:
        What ``latent.json`` holds: ``settings``, ``groups`` (PCA, neighbours, dimensions), ``sampling``, ``loss``,
        ``interpolation``, ``disentanglement`` (or why there is none) and ``notes``.

    Raises:
        InputError: the output exists, the codec does not fit the recordings, or there are too few clips.
    """
    check_output(out, force=force, mark=RESULT)
    if dimensions < 1 or points < 2 or pairs < 1 or not span > 0:
        raise InputError(
            "a study of a latent needs at least one dimension, two points, one pair and a positive span, received "
            f"{dimensions}, {points}, {pairs} and {span:g}"
        )
    systems.check_fit(codec, recordings)
    data = systems.data_of(recordings, split, [codec], log=log)
    indices = systems.chosen_clips(recordings, split, limit)
    if len(indices) < 3:
        raise InputError(f"a study of a latent needs three clips or more, received {len(indices)} of the {split} split")
    random, names = np.random.default_rng(seed), systems.clip_names(recordings, split, indices)
    log(f"encoding {len(indices)} clips of the {split} split")
    waveforms = np.concatenate([batch for _, batch in systems.batches(recordings, split, indices, 64)])
    parts = np.array_split(waveforms, -(-len(indices) // 64))
    db = np.concatenate([np.asarray(codec.representation.decibels(part)) for part in parts])
    features = np.asarray(codec.representation.from_db(db))
    real = latent_moves.levels_of(db)
    space = LatentSpace(codec, features[:1])
    encoded = space.encode(features)
    centre, scale = _units(space, encoded)
    labels = _labels(recordings, split, indices)
    spectra = [principal_components([z], min(COMPONENTS, z.shape[1])) for z in encoded]

    groups, traversals, places = [], [], []
    for index, (group, z, pca) in enumerate(zip(space.groups, encoded, spectra)):
        log(f"moving {group.name}, {group.dimensions} dimensions")
        effects = latent_moves.measure_effects(space, index, z, centre, scale, span)
        lines = latent_moves.traverse(space, index, effects, pca, centre, scale, span, points, dimensions)
        traversals += lines
        coordinates = (z - pca.mean.ravel()) @ pca.components[:COORDINATES].T
        places.append(coordinates)
        groups.append({
            "name": group.name, "shape": list(group.shape), "dimensions": group.dimensions,
            "pca": _spectrum(pca), "neighbours": _neighbours(z, coordinates, labels), "moved": effects,
        })  # fmt: skip
    log("drawing and interpolating")
    mesh, mesh_axes = latent_moves.decode_mesh(space, groups[0], spectra[0], centre, scale, span)
    draws, sampling = latent_moves.draw(space, centre, scale, span, real, random)
    clips = [names[index] for index in indices]
    chosen = latent_moves.choose_pairs(labels, len(indices), pairs, random)
    paths, interpolation = latent_moves.interpolate(space, features, real, chosen, clips)
    errors = _errors(codec, db, features, real)
    kl = codec.kl_divergence(features)
    result = {
        "kind": "latent",
        "spectrovae": __version__,
        "data": data,
        "settings": {
            "model": codec.name, "family": codec.family, "latent": space.kind, "held": space.held, "split": split,
            "clips": len(indices), "dimensions": dimensions, "span": span, "points": points, "pairs": pairs,
            "seed": seed,
        },
        "groups": groups,
        "sampling": sampling,
        "loss": [_loss(errors, label, kl) for label in labels],
        "interpolation": interpolation,
        "disentanglement": _disentanglement(codec, recordings, split, seed),
        "notes": _notes(space, labels, codec),
    }  # fmt: skip
    result = as_json(result)
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        rows = _coordinates(space, clips, labels, errors, places)
        write_text(folder / "coordinates.csv", systems.csv_text(rows))
        drawn = Drawn(traversals, mesh, mesh_axes, draws, paths)
        latent_page.write(Path(folder), result, codec, drawn, labels, places, errors)
    return result


def format_latent(result: dict[str, Any]) -> str:
    """The study as plain text, at most 120 columns wide."""
    settings = result["settings"]
    lines = [
        f"{settings['clips']} clips of the {settings['split']} split, latent: {settings['latent']}",
        f"{'group':16} {'dimensions':>10} {'axes for 90 %':>14} {'99 %':>6} {'effective':>10} {'strongest':>10}",
    ]
    for group in result["groups"]:
        pca, strongest = group["pca"], max(group["moved"], key=lambda row: row["change_db"])
        counts = [str(pca[key] or "–") for key in ("components_90", "components_99")]
        lines.append(
            f"{group['name'][:16]:16} {group['dimensions']:10} {counts[0]:>14} {counts[1]:>6} "
            f"{pca['effective_dimensions']:10.1f} {strongest['dimension']:>10}"
        )
        for row in group["neighbours"]:
            lines.append(
                f"  {row['label']}: nearest clips tell it with {row['measure']} {row['axes_2']:.2f} on 2 axes, "
                f"{row['whole']:.2f} in all (chance {row['chance']:.2f})"
            )
    for row in result["sampling"]:
        lines.append(f"{row['name']}: nearest clip {row['nearest_db']:.2f} dB, spread {row['spread_db']:.2f} dB")
    for row in result["interpolation"]["rows"]:
        lines.append(
            f"{row['name']}: path {row['ratio']:.2f}, largest step {row['largest_step']:.2f}, middle "
            f"{row['nearest_db']:.2f} dB from the nearest clip"
        )
    return "\n".join(lines)


def _units(space: LatentSpace, encoded: Points) -> tuple[Points, Points]:
    """The middle of each group and what its dimensions are moved in units of."""
    if space.kind == "posterior":
        return [np.zeros(z.shape[1], np.float32) for z in encoded], [np.ones(z.shape[1], np.float32) for z in encoded]
    return [z.mean(axis=0) for z in encoded], [z.std(axis=0) for z in encoded]


def _labels(recordings: Any, split: str, indices: Sequence[int]) -> list[Label]:
    """What is known of the clips and varies: a toy set's factors, or label and speaker."""
    if recordings.factor_names:
        known = recordings.factors(split)[list(indices)]
        columns = [Label(name, known[:, place]) for place, name in enumerate(recordings.factor_names)]
        return [label for label in columns if np.ptp(label.values) > 0]
    examples = recordings.examples(split)
    found = []
    for name in ("label", "speaker"):
        values = [getattr(examples[index], name) for index in indices]
        if None not in values and 1 < len(set(values)) <= MAX_CLASSES:
            found.append(Label(name, np.array(values, dtype=str)))
    return found


def _spectrum(pca: PrincipalComponents) -> dict[str, Any]:
    total = max(float(pca.total_variance), 1e-30)
    shares = pca.variances.astype(np.float64) / total
    held = np.cumsum(shares)
    return {
        "total_variance": float(pca.total_variance),
        "explained": shares.tolist(),
        "components_90": _first(held, 0.9),
        "components_99": _first(held, 0.99),
        "effective_dimensions": effective_dimensions(pca.variances, float(np.sum(pca.variances))),
    }


def _first(held: np.ndarray, share: float) -> int | None:
    reached = np.flatnonzero(held >= share - 1e-9)
    return int(reached[0]) + 1 if len(reached) else None


def _neighbours(z: np.ndarray, coordinates: np.ndarray, labels: Sequence[Label]) -> list[dict[str, Any]]:
    rows = []
    for label in labels:
        row: dict[str, Any] = {"label": label.name, "measure": "R2" if label.numeric else "accuracy"}
        measure = neighbour_r2 if label.numeric else neighbour_accuracy
        spaces = {"axes_2": coordinates[:, :2], "axes_3": coordinates[:, :3], "whole": z}
        row |= {name: measure(points, label.values) for name, points in spaces.items()}
        counts = [np.sum(label.values == name) for name in label.classes]
        row["chance"] = 0.0 if label.numeric else float(max(counts) / len(label.values))
        rows.append(row)
    return rows


def _errors(codec: Any, db: np.ndarray, features: np.ndarray, real: np.ndarray) -> np.ndarray:
    """RMSE of the reconstruction of each clip in dB."""
    errors = []
    for start in range(0, len(db), 64):
        part = slice(start, start + 64)
        output = codec.reconstruct_features(features[part])
        statistics = codec.representation.statistics(db[part])
        level = latent_moves.levels_of(np.asarray(codec.representation.to_db(output, statistics)))
        errors.append(np.sqrt(np.mean((level.astype(np.float64) - real[part]) ** 2, axis=1)))
    return np.concatenate(errors)


def _loss(errors: np.ndarray, label: Label, kl: np.ndarray | None) -> dict[str, Any]:
    rows = []
    for name, chosen in binned(label).items():
        low, middle, high = (float(value) for value in np.quantile(errors[chosen], (0.25, 0.5, 0.75)))
        rows.append({
            "value": name, "clips": int(chosen.sum()), "median_db": middle, "lower_quartile_db": low,
            "upper_quartile_db": high, "mean_db": float(errors[chosen].mean()),
            "kl_nats": None if kl is None else float(np.mean(kl[chosen])),
        })  # fmt: skip
    found: dict[str, Any] = {"label": label.name, "rows": rows}
    samples = [errors[chosen] for chosen in binned(label).values()]
    spread = np.ptp(errors) > 0
    if label.numeric:
        found["spearman"] = float(stats.spearmanr(label.values, errors).statistic) if spread else 0.0
    elif len(samples) > 1:
        found["kruskal_wallis_p"] = float(stats.kruskal(*samples).pvalue) if spread else 1.0
    return found


def _disentanglement(codec: Any, recordings: Any, split: str, seed: int) -> dict[str, Any]:
    """What ``spectrovae disentangle`` measures, or ``reason``, why it does not apply."""
    if len(recordings.factor_names) < 2:
        return {"reason": "Nobody knows the factors of these sounds; try toy:additive or toy:fm."}
    try:
        return factors.disentangle(codec, recordings, split=split, seeds=(seed, seed + 1, seed + 2))
    except InputError as error:
        return {"reason": str(error)}


def _notes(space: LatentSpace, labels: Sequence[Label], codec: Any) -> list[str]:
    notes = {
        "posterior": ["Points are posterior means, moved in units of the prior's deviation, which is 1."],
        "codes": [
            "Codes are studied as the vectors they stand for; a point that was moved decodes from the codes nearest to "
            "it, so that small moves change nothing. There is no prior: numbers are drawn round the clips' own."
        ],
        "numbers": ["This latent has no prior. It is moved in units of each dimension's deviation over the clips."],
    }[space.kind]
    if space.held:
        notes.append(
            f"Only {space.groups[0].name} is moved; {', '.join(space.held)} keep the latents of the first clip, which "
            "hold most of the sound. Between two clips all are interpolated."
        )
    if len(space.groups) > 1:
        notes.append(
            "While one group of latents is moved, the others are 0: what their prior expects given those above."
        )
    if codec.representation.normalisation == "per_example":
        notes.append("Levels were scaled clip by clip: what is drawn and moved is shown on the nominal range.")
    if not labels:
        notes.append("Nothing is known of these clips that could colour a map or part the errors.")
    return notes


def _coordinates(
    space: LatentSpace, names: Sequence[str], labels: Sequence[Label], errors: np.ndarray, places: Points
) -> list[dict[str, Any]]:
    rows = []
    for row, name in enumerate(names):
        flat = {
            "clip": name,
            **{label.name: label.values[row].item() for label in labels},
            "rmse_db": float(errors[row]),
        }
        for group, coordinates in zip(space.groups, places):
            prefix = f"{group.name}_" if len(places) > 1 else ""
            flat |= {f"{prefix}axis_{axis}": float(value) for axis, value in enumerate(coordinates[row], start=1)}
        rows.append(flat)
    return rows
