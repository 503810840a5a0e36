"""Sub-commands that make new sounds: drawn from a prior, or between two recordings."""

from pathlib import Path

from spectrovae.commands.options import open_codec, plain, recordings_for, unclipped
from spectrovae.commands.outputs import check_out, file_name
from spectrovae.errors import InputError

RESULT = "sounds.json"
"""By this file a folder is known as an earlier result, which --force may replace."""


def generate(options) -> tuple[dict, str]:
    """Draw new sounds from a model's prior, learned or standard normal, and lay them out on a page."""
    import numpy as np

    from spectrovae import audio
    from spectrovae.evaluation.draws import draws_page, examine_draws
    from spectrovae.evaluation.judges import Judge

    check_out(options, RESULT)
    codec = open_codec(options.bundle)
    judges = [Judge.load(folder) for folder in options.judge]
    if len({judge.name for judge in judges}) < len(judges):
        raise InputError("judges are told apart by their folders' names; give different ones")
    own, options.data = options.data == "", options.data or None  # --data alone: the model's own
    recordings = recordings_for(options, [codec]) if own or options.data else None
    prefix = audio.read(options.prefix, codec.sample_rate)[0] if options.prefix else None
    sounds = codec.generate(
        options.n, temperature=options.temperature, seed=options.seed, label=options.label, speaker=options.speaker,
        top_k=options.top_k, top_p=options.top_p, guidance=options.guidance, prefix=prefix,
    )  # fmt: skip
    names = [file_name(codec.name, f"-{index:04}.wav") for index in range(options.n)]
    sounds = [unclipped(sound, name) for name, sound in zip(names, sounds)]
    conditions = {"label": options.label, "speaker": options.speaker}
    result = examine_draws(np.stack(sounds), codec, asked=conditions, judges=judges, recordings=recordings)
    for sample, name in zip(result["samples"], names):
        sample["file"] = str(Path(options.out) / name)
    prior = codec.learned["kind"] if codec.learned_prior is not None else "N(0, I)"
    wanted = "".join(f", {name} {value}" for name, value in conditions.items() if value is not None)
    summary = f"{options.n} sounds of {codec.name} drawn from {prior}{wanted}, at temperature {options.temperature:g}."
    settings = conditions | {
        "prior": prior, "temperature": options.temperature, "seed": options.seed, "top_k": options.top_k,
        "top_p": options.top_p, "guidance": options.guidance, "prefix": options.prefix,
    }  # fmt: skip
    page = draws_page(f"Drawn: {codec.name}", summary, result, sounds, codec)
    written = _write(options, dict(zip(names, sounds)), codec.sample_rate, page, {"settings": settings} | result)
    lines = [*written["files"], written["report"]]
    for row in result["judges"]:
        right = "" if row["right"] is None else f", {row['right']:.1%} right"
        lines.append(f"{row['judge']}: {plain(row['answers'])}{right}")
    for row in result["spaces"]:
        lines.append(
            f"{row['space']}: nearest training clip at {row['median']:.3g} {row['unit']}, of test clips at "
            f"{row['held_out_median']:.3g}; {row['near']:.0%} nearer than 99 % of these"
        )
    lines += result["data"]["notes"] if result["data"] else []
    return written, "\n".join(lines)


def interpolate(options) -> tuple[dict, str]:
    """Decode latents between those of two recordings, and lay the sounds out on a page."""
    from spectrovae import audio
    from spectrovae.evaluation.draws import path_page

    check_out(options, RESULT)
    codec = open_codec(options.bundle)
    first, second = (audio.read(file, codec.sample_rate)[0] for file in (options.first, options.second))
    sounds = codec.interpolate(first, second, options.n, options.path)
    files = [f"{index:02}.wav" for index in range(options.n)]
    sounds = [unclipped(sound, name) for name, sound in zip(files, sounds)]
    way = {"line": "the straight line", "sphere": "the great circle"}[options.path]
    ends = (Path(options.first).name, Path(options.second).name)
    shares = [f"{index / max(options.n - 1, 1):.0%}" for index in range(options.n)]
    summary = f"From {ends[0]} to {ends[1]} on {way} between their latents, by {codec.name}."
    page = path_page(f"Between: {codec.name}", summary, shares, sounds, codec)
    written = _write(options, dict(zip(files, sounds)), codec.sample_rate, page, {"path": options.path})
    return written, "\n".join([*written["files"], written["report"]])


def _write(options, sounds: dict, sample_rate: int, page, result: dict) -> dict:
    """Write sounds by file name, their page and ``RESULT`` as one folder; the result with the paths of its files."""
    from spectrovae import audio, files

    out = Path(options.out)
    result = {"files": [str(out / name) for name in sounds], "report": str(out / "report.html")} | result
    with files.new_folder(out, force=options.force, mark=RESULT) as folder:
        for name, sound in sounds.items():
            audio.write(folder / name, sound, sample_rate)
        page.save(folder / "report.html")
        files.write_json(folder / RESULT, files.as_json(result))
    return result
