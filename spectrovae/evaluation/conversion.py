"""One speaker's clips in every other's voice, played to judges: is the voice the one asked for, are the words kept?"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrovae import __version__, conversion
from spectrovae.errors import InputError
from spectrovae.evaluation import systems
from spectrovae.evaluation.judges import Judge
from spectrovae.evaluation.leak import speaker_leak
from spectrovae.evaluation.metrics import Figure, bootstrap
from spectrovae.evaluation.report import MISSING, Cell, Report, Row, wav_bytes
from spectrovae.evaluation.systems import Log
from spectrovae.files import as_json, check_output, new_folder, write_json, write_text

RESULT = "conversion.json"
SYSTEMS = {
    "original": "the recordings themselves: what the judges get right at best",
    "reconstruction": "through encoder and decoder, nobody's voice being asked for",
    "own voice": "the same, the voice asked for being the clip's own",
    "converted": "in the voice of every other speaker",
}
DEFINITIONS = (
    "Words: the share of sounds of which the judge names the label rightly, of FSDD the digit.",
    "Voice: the share of sounds that the judge takes for the speaker whose voice was asked for; of the recordings and "
    "the reconstruction, for their own. Source: the share of converted sounds still taken for who spoke. Judges are "
    "classifiers trained on real recordings, and know no other voices than theirs.",
    "Intervals are bootstraps over clips, all conversions of a clip together. They do not speak for other speakers.",
    "Leak: how often a linear classifier, taught on the training split, names the speaker from the latent. What it "
    "does not find, a larger one might.",
)  # fmt: skip
Values = dict[tuple[str, str, str], np.ndarray]


def convert_all(
    codec: Any,
    recordings: Any,
    judges: Sequence[Judge],
    out: str | os.PathLike,
    *,
    split: str = "test",
    limit: int | None = None,
    guidance: float = conversion.GUIDANCE,
    samples: int = 4,
    batch_size: int = 32,
    resamples: int = 10_000,
    seed: int = 0,
    force: bool = False,
    log: Log = systems.to_stderr,
) -> dict[str, Any]:
    """Convert the clips of a split to every other speaker, play them to judges, and write tables, a page and sounds.

    The folder gets ``conversion.json``, ``conversion.csv`` (the figures), ``pairs.csv`` (by source and target),
    ``report.html`` and ``samples/`` as 16-bit wav. It appears whole at the end or not at all.

    Args:
        codec: with speakers.
        recordings: opened at the codec's sample rate and length.
        judges: classifiers of labels or speakers, one at least.
        out: the folder to write.
        split: the split that is converted.
        limit: convert this many clips, evenly spaced over the split, in place of all.
        guidance: how much the voices weigh, see :meth:`Codec.convert`.
        samples: clips that are written as sound.
        batch_size: clips computed at once.
        resamples, seed: of the bootstrap.
        force: replace the result of an earlier run.
        log: receives progress, a line at a time.

    Returns:
        What ``conversion.json`` holds: ``settings``, ``leak`` (see :func:`spectrovae.evaluation.leak.speaker_leak`),
        ``rows`` (``system``, ``judge``, ``target``, ``asked`` as ``"own"``, ``"target"`` or ``"source"``, ``accuracy``
        with ``_low`` and ``_high``), and ``pairs`` (``source``, ``target``, ``clips``, an accuracy for each judge).

    Raises:
        InputError: a codec without speakers, no judge, judges of one name or of nobody whom the codec knows, or an
            output that exists; a guidance below 0.
    """
    check_output(out, force=force, mark=RESULT)
    conversion.asked(codec, codec.speakers, guidance, len(codec.speakers))
    systems.check_fit(codec, recordings)
    if resamples < 1:
        raise InputError(f"the number of bootstrap resamples must be at least 1; received {resamples}")
    named = _named(judges, codec)
    data = systems.data_of(recordings, split, [codec], judges, log)
    indices = systems.chosen_clips(recordings, split, limit)
    heard = systems.spread(indices, samples) if samples > 0 else []
    examples = recordings.examples(split)
    own = recordings.places(split, codec.speakers)
    log(f"converting {len(indices)} clips of the {split} split to {len(codec.speakers)} speakers")
    convert = functools.partial(codec.convert, guidance=guidance)
    values, pairs = _measure(codec, convert, recordings, split, indices, named, own, batch_size, log)
    estimates = bootstrap({key: Figure.mean(found) for key, found in values.items()}, resamples=resamples, seed=seed)
    targets = {name: judge.target for name, judge in named.items()}
    rows = [
        {"system": system, "judge": judge, "target": targets[judge], "asked": asked}
        | systems.estimate_fields("accuracy", estimate)
        for (system, judge, asked), estimate in estimates.items()
    ]
    result = {
        "spectrovae": __version__,
        "data": data,
        "settings": {
            "model": codec.name, "speakers": list(codec.speakers), "split": split, "clips": len(indices),
            "guidance": guidance,
            "judges": {name: judge.info.get("accuracy") for name, judge in named.items()},
            "resamples": resamples, "seed": seed,
        },
        "leak": speaker_leak(codec, recordings, split),
        "rows": rows,
        "pairs": pairs,
    }  # fmt: skip
    result = as_json(result)
    rows, pairs = result["rows"], result["pairs"]
    names = systems.clip_names(recordings, split, heard)
    sounds = _sounds(codec, convert, recordings, split, heard)
    said = {index: [examples[index].speaker, examples[index].label, "converted"] for index in heard}
    titles = {index: f"{names[index]}: {', '.join(filter(None, words))}" for index, words in said.items()}
    with new_folder(out, force=force, mark=RESULT) as folder:
        write_json(folder / RESULT, result)
        write_text(folder / "conversion.csv", systems.csv_text(rows))
        write_text(folder / "pairs.csv", systems.csv_text(pairs))
        for index, made in sounds.items():
            (folder / "samples").mkdir(exist_ok=True)
            for (_, waveform), stem in zip(made, systems.unique_stems([title for title, _ in made])):
                file = folder / "samples" / f"{names[index]}-{stem}.wav"
                file.write_bytes(wav_bytes(waveform, codec.sample_rate))
        _page(result, {titles[index]: made for index, made in sounds.items()}, codec).save(folder / "report.html")
    return result


def format_conversion(result: Mapping[str, Any]) -> str:
    """The figures for a terminal."""
    lines = [f"{'system':16} {'judge':16} {'asked':8} accuracy"]
    for row in result["rows"]:
        interval = ""
        if row["accuracy_low"] is not None:
            interval = f"  ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})"
        lines.append(f"{row['system']:16} {row['judge']:16} {row['asked']:8} {_percent(row['accuracy'])}{interval}")
    return "\n".join([*lines, _leak(result)])


def _named(judges: Sequence[Judge], codec: Any) -> dict[str, Judge]:
    if not judges:
        raise InputError(
            "conversions are heard by judges: give one of labels and one of speakers (spectrovae fit-judge)"
        )
    for judge in judges:
        if judge.target == "speaker" and not set(judge.labels) & set(codec.speakers):
            raise InputError(
                f"the judge {judge.name} tells the speakers {', '.join(judge.labels[:10])}, and {codec.name} speaks as "
                f"{', '.join(codec.speakers[:10])}: give one of the same recordings"
            )
    return dict(zip(systems.unique_stems([judge.name for judge in judges]), judges))


def _measure(
    codec, convert, recordings, split, indices, judges: Mapping[str, Judge], own: np.ndarray, batch_size: int, log: Log
) -> tuple[Values, list[dict[str, Any]]]:
    """By (system, judge, asked) a value a clip, NaN where there is none; and the table of sources and targets."""
    examples, speakers = recordings.examples(split), codec.speakers
    truth = {name: judge.truth(examples) for name, judge in judges.items()}
    row_of = {index: row for row, index in enumerate(indices)}
    values: Values = {}
    # converted, by target: whether each judge hears the words, the voice asked for, and the source's
    by_target: dict[tuple[str, str], np.ndarray] = {}

    def hear(system: str, found: list[int], waveforms, asked: np.ndarray | None = None) -> None:
        rows = [row_of[index] for index in found]
        for name, judge in judges.items():
            answers, _ = judge.hear(waveforms, codec.sample_rate)
            known = truth[name][found]
            right = np.where(known >= 0, answers == known, np.nan)
            kinds = {"own": right}
            if asked is not None and judge.target == "speaker":
                place = {label: number for number, label in enumerate(judge.labels)}
                wanted = np.array([place.get(speakers[target], -1) for target in asked])
                kinds = {"target": np.where(wanted >= 0, answers == wanted, np.nan), "source": right}
            for kind, heard in kinds.items():
                if asked is None:
                    values.setdefault((system, name, kind), np.full(len(indices), np.nan))[rows] = heard
                else:
                    table = by_target.setdefault((name, kind), np.full((len(indices), len(speakers)), np.nan))
                    table[rows, asked] = heard

    done = 0
    for found, waveforms in systems.batches(recordings, split, indices, batch_size):
        hear("original", found, waveforms)
        hear("reconstruction", found, codec.reconstruct(waveforms))
        for target, name in enumerate(speakers):
            same = own[found] == target
            sounds = convert(waveforms, name)
            for kept, system in ((same, "own voice"), (~same, "converted")):
                some = [index for index, keep in zip(found, kept) if keep]
                if some:
                    asked = np.full(len(some), target) if system == "converted" else None
                    hear(system, some, sounds[kept], asked)
        done += len(found)
        log(f"  {done} of {len(indices)}")
    for (judge, kind), table in by_target.items():
        some = ~np.isnan(table).all(axis=1)
        found_means = np.full(len(table), np.nan)
        found_means[some] = np.nanmean(table[some], axis=1)
        values["converted", judge, kind] = found_means
    order = list(SYSTEMS)
    values = {key: values[key] for key in sorted(values, key=lambda key: order.index(key[0]))}
    return values, _pairs(speakers, own[indices], by_target)


def _pairs(speakers: Sequence[str], own: np.ndarray, by_target) -> list[dict[str, Any]]:
    rows = []
    others = systems.unique_name("others", {name.casefold() for name in speakers})
    for source, name in enumerate((*speakers, others)):
        for target, wanted in enumerate(speakers):
            clips = own == source
            if source == target or not clips.any():
                continue
            row: dict[str, Any] = {"source": name, "target": wanted, "clips": int(clips.sum())}
            for (judge, kind), table in by_target.items():
                heard = table[clips, target]
                heard = heard[~np.isnan(heard)]
                row[f"{judge}_{kind}"] = float(heard.mean()) if len(heard) else None
            rows.append(row)
    return rows


def _sounds(codec, convert, recordings, split, heard: Sequence[int]) -> dict[int, list[tuple[str, np.ndarray]]]:
    """Of each clip heard (title, waveform), the original first."""
    sounds: dict[int, list[tuple[str, np.ndarray]]] = {}
    for found, waveforms in systems.batches(recordings, split, heard, 16) if heard else ():
        made = [("original", waveforms), ("reconstruction", codec.reconstruct(waveforms))]
        made += [(f"as {name}", convert(waveforms, name)) for name in codec.speakers]
        for row, index in enumerate(found):
            sounds[index] = [(title, batch[row]) for title, batch in made]
    return sounds


def _page(result: Mapping[str, Any], sounds: Mapping[str, list[tuple[str, np.ndarray]]], codec: Any) -> Report:
    settings = result["settings"]
    report = Report(
        f"Converted: {settings['model']}",
        f"{settings['clips']} clips of the {settings['split']} split in the voices of {len(settings['speakers'])} "
        f"speakers, at a guidance of {settings['guidance']:g}, played to {len(settings['judges'])} judges.",
        result["data"],
    )
    report.table("What judges heard", ("sounds", "judge", "asked for", "right"), [
        Row([Cell(row["system"], SYSTEMS[row["system"]]), Cell(row["judge"], row["target"]), Cell(row["asked"]),
             Cell(_percent(row["accuracy"]), _interval(row), row["accuracy"])],
            "model" if row["system"] == "converted" else "baseline")
        for row in result["rows"]
    ])  # fmt: skip
    report.text(_leak(result))
    kinds = [name for name in (result["pairs"][0] if result["pairs"] else {}) if name not in ("source", "target")]
    report.table("From whom to whom", ("source", "target", *(name.replace("_", ", ") for name in kinds)), [
        Row([Cell(row["source"]), Cell(row["target"]), *(
            Cell(str(row[name]) if name == "clips" else _percent(row[name]), "", row[name]) for name in kinds
        )])
        for row in result["pairs"]
    ])  # fmt: skip
    report.notes(DEFINITIONS)
    report.section("Sounds")
    clips = {
        title: [(name, np.asarray(codec.representation.decibels(sound[None]))[0], sound) for name, sound in made]
        for title, made in sounds.items()
    }
    report.clips(clips, codec.representation)
    return report


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1%}"


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["accuracy_low"] is None else f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}"


def _leak(result: Mapping[str, Any]) -> str:
    leak = result["leak"]
    if not leak:
        return "leak: no clip of a speaker that the model knows"
    return (
        f"leak: the speaker is named from the latent for {leak['accuracy']:.1%} of {leak['clips']} clips of the "
        f"{leak['split']} split (chance {leak['chance']:.1%})"
    )
