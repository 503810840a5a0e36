"""Sub-commands that export models, serve them and call them."""

import json

from spectrovae.commands.options import unclipped
from spectrovae.commands.outputs import free_paths
from spectrovae.errors import InputError


def export(options) -> tuple[dict, str]:
    """Write a SavedModel and prove it equal in a process without Keras; or encoder and decoder for another runtime."""
    from spectrovae import serving

    if options.target != "saved_model":
        return _export_parts(options)
    result = serving.export(
        options.bundle, options.folder, name=options.name, version=options.version, weights=options.weights,
        force=options.force,
    )  # fmt: skip
    written = serving.read_export(result)
    parity, weights = written["parity"], written["weights"]
    lines = [str(result), serving.format_parity(parity), f"{weights['kind']} weights, {weights['megabytes']:.2f} MB"]
    if weights["error_db"]:
        errors = ", ".join(f"{name} {error:.0f} dB" for name, error in weights["error_db"].items())
        lines[-1] += f"; RMS error against float32 weights: {errors}"
    return {"path": str(result), "parity": parity, "weights": weights}, "\n".join(lines)


def _export_parts(options) -> tuple[dict, str]:
    from spectrovae import serving

    if options.version is not None or options.weights != "float32":
        raise InputError(f"--version and --weights are for a SavedModel; leave them out with --target {options.target}")
    path = serving.export_parts(options.bundle, options.folder, options.target, name=options.name, force=options.force)
    parity = json.loads((path / "spectrovae.json").read_text(encoding="utf-8"))["parity"]
    figures = ", ".join(f"{part} {difference:.0f} dB" for part, difference in parity.items())
    return {"path": str(path), "parity": parity}, (
        f"{path}\nlargest difference from the Keras model: {figures}\n"
        "encoder and decoder alone: features go in and come out. Waveform to features and back stays with the caller, "
        "by the settings in spectrovae.json"
    )


def deploy(options) -> tuple[dict, str]:
    """Write what TF Serving's official image needs to serve exported models: its configuration, Compose, Kubernetes."""
    from spectrovae.serving import deployment

    labels = deployment.parse_labels(options.label, options.folder)
    paths = deployment.deploy(
        options.folder, labels=labels, batching=options.batching, image=options.image, force=options.force
    )
    how = deployment.how_to_try(options.folder)
    return {"files": [str(path) for path in paths], "try": how.splitlines()}, "\n".join([*map(str, paths), "", how])


def serve(options) -> tuple[dict, str]:
    """Answer requests to exported models, as TensorFlow Serving does: by REST and by gRPC."""
    import dataclasses

    from spectrovae.serving.server import launch
    from spectrovae.serving.server.options import Options

    settings = Options(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Options)})
    result = launch.serve(settings, stand_in=options.stand_in)
    return result, f"{result['answered']} requests answered, {result['refused']} refused"


def call(options) -> tuple[dict, str]:
    """Send audio files through a served model; without files, print what the model says of itself."""
    import numpy as np

    from spectrovae import audio
    from spectrovae.serving.client import Client

    if options.files and options.out is None:
        raise InputError("call needs --out FOLDER for the sounds that come back")
    with Client(options.url, timeout=options.timeout, retries=options.retries, chunk=options.chunk) as client:
        if not options.files:
            return client.description, json.dumps(client.description, indent=2)
        outs = free_paths(options.out, options.files, force=options.force)
        for file in options.files:
            audio.info(file)  # all before the first is sent
        for file, out in zip(options.files, outs):
            sound = np.concatenate(list(client.stream(audio.stream(file, client.sample_rate))))
            audio.write(out, unclipped(sound, out), client.sample_rate)
    written = list(map(str, outs))
    return {"files": written}, "\n".join(written)
