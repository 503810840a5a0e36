"""Sub-commands that make new sounds: drawn from a prior, or on the way between two."""

from pathlib import Path

from spectrovae.commands.options import free_path, open_codec, plain, recordings_for, unclipped
from spectrovae.errors import InputError


def generate(options) -> tuple[dict, str]:
    """Draw new sounds from a model's prior, learned or standard normal, and lay them out on a page."""
    import numpy as np

    from spectrovae import audio, files
    from spectrovae.evaluation.draws import draws_page, examine_draws
    from spectrovae.evaluation.judges import Judge

    codec = open_codec(options.bundle)
    outs, page = _free(options, [f"{codec.name}-{index:04}.wav" for index in range(options.n)])
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
    sounds = [unclipped(sound, out) for out, sound in zip(outs, sounds)]
    for out, sound in zip(outs, sounds):
        audio.write(out, sound, codec.sample_rate)
    asked = {"label": options.label, "speaker": options.speaker}
    result = examine_draws(np.stack(sounds), codec, asked=asked, judges=judges, recordings=recordings)
    for sample, out in zip(result["samples"], outs):
        sample["file"] = str(out)
    prior = codec.learned["kind"] if codec.learned_prior is not None else "N(0, I)"
    wanted = "".join(f", {name} {value}" for name, value in asked.items() if value is not None)
    summary = f"{options.n} sounds of {codec.name} drawn from {prior}{wanted}, at temperature {options.temperature:g}."
    with files.writing(page):
        draws_page(f"Drawn: {codec.name}", summary, result, sounds, codec).save(page)
    settings = asked | {
        "prior": prior, "temperature": options.temperature, "seed": options.seed, "top_k": options.top_k,
        "top_p": options.top_p, "guidance": options.guidance, "prefix": options.prefix,
    }  # fmt: skip
    lines = [*map(str, outs), str(page)]
    for row in result["judges"]:
        right = "" if row["right"] is None else f", {row['right']:.1%} right"
        lines.append(f"{row['judge']}: {plain(row['answers'])}{right}")
    for row in result["spaces"]:
        lines.append(
            f"{row['space']}: nearest training clip at {row['median']:.3g} {row['unit']}, of test clips at "
            f"{row['held_out_median']:.3g}; {row['near']:.0%} nearer than 99 % of these"
        )
    return {"files": list(map(str, outs)), "report": str(page), "settings": settings} | result, "\n".join(lines)


def interpolate(options) -> tuple[dict, str]:
    """Sounds between two recordings, on the way between their latents, and a page of them."""
    from spectrovae import audio, files
    from spectrovae.evaluation.draws import path_page

    codec = open_codec(options.bundle)
    outs, page = _free(options, [f"{index:02}.wav" for index in range(options.n)])
    first, second = (audio.read(file, codec.sample_rate)[0] for file in (options.first, options.second))
    sounds = codec.interpolate(first, second, options.n, options.path)
    sounds = [unclipped(sound, out) for out, sound in zip(outs, sounds)]
    for out, sound in zip(outs, sounds):
        audio.write(out, sound, codec.sample_rate)
    way = {"line": "the straight line", "sphere": "the great circle"}[options.path]
    ends = (Path(options.first).name, Path(options.second).name)
    names = [f"{index / max(options.n - 1, 1):.0%}" for index in range(options.n)]
    summary = f"From {ends[0]} to {ends[1]} on {way} between their latents, by {codec.name}."
    with files.writing(page):
        path_page(f"Between: {codec.name}", summary, names, sounds, codec).save(page)
    result = {"files": list(map(str, outs)), "report": str(page), "path": options.path}
    return result, "\n".join([*map(str, outs), str(page)])


def _free(options, names: list[str]) -> tuple[list[Path], Path]:
    folder = Path(options.out)
    *outs, page = [free_path(folder / name, options.force) for name in (*names, "report.html")]
    return outs, page
