"""Sub-commands that let one speaker's sounds be heard in another's voice."""

from pathlib import Path

from spectrovae.commands.options import log, open_codec, recordings_for, unclipped
from spectrovae.commands.outputs import check_out, free_path, free_paths, inputs_of
from spectrovae.errors import InputError


def convert(options) -> tuple[dict, str]:
    """Send audio files through a model in another speaker's voice; files at another rate are resampled."""
    from spectrovae import audio, conversion

    codec = open_codec(options.bundle, prior=False)
    conversion.asked(codec, options.speaker, options.guidance, 1)  # before any file is read
    out = Path(options.out)
    alone = out.suffix.lower() == ".wav" and not out.is_dir()
    if alone and len(options.files) > 1:
        raise InputError(f"{out} is one file and {len(options.files)} are to be converted; give a folder")
    if alone:
        outs = [free_path(out, options.force, inputs_of(options))]
    else:
        ending = f"-{options.speaker}.wav"
        outs = free_paths(out, options.files, force=options.force, ending=ending, bundle=options.bundle)
    for file in options.files:
        audio.info(file)  # all before the first is computed
    for file, path in zip(options.files, outs):
        waveform, _ = audio.read(file, codec.sample_rate)
        converted = codec.convert(waveform[None], options.speaker, guidance=options.guidance)[0]
        audio.write(path, unclipped(converted, path), codec.sample_rate)
    written = list(map(str, outs))
    return {"files": written, "speaker": options.speaker, "guidance": options.guidance}, "\n".join(written)


def judge_conversion(options) -> tuple[dict, str]:
    """Convert clips to every other speaker and have judges hear them: is it the voice, are these the words?"""
    from spectrovae.evaluation.conversion import RESULT, convert_all, format_conversion
    from spectrovae.evaluation.judges import Judge

    check_out(options, RESULT)
    codec = open_codec(options.bundle, prior=False)
    judges = [Judge.load(path) for path in options.judge]
    result = convert_all(
        codec, recordings_for(options, [codec]), judges, options.out, split=options.split, limit=options.limit,
        guidance=options.guidance, samples=options.samples, resamples=options.resamples, seed=options.seed,
        force=options.force, log=log,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{format_conversion(result)}\n\n{page}"
