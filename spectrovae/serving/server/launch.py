"""Which server runs: TensorFlow Serving where it is installed, else the stand-in."""

import asyncio
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from spectrovae.errors import InputError
from spectrovae.serving.replay import Hiding
from spectrovae.serving.server import config
from spectrovae.serving.server.options import Options

BINARY = "tensorflow_model_server"
NEEDED = {"aiohttp": "aiohttp", "grpc": "grpcio", "grpc_health": "grpcio-health-checking", "orjson": "orjson",
          "tensorflow_serving": "tensorflow-serving-api"}  # fmt: skip

log = logging.getLogger(__name__)


def serve(options: Options, *, stand_in: bool = False) -> dict:
    """Serve a folder of exported models until SIGTERM or SIGINT.

    Args:
        options: where, and within which limits.
        stand_in: do not look for ``tensorflow_model_server``.

    Returns:
        How many requests were ``answered`` and ``refused``. Where ``tensorflow_model_server`` is on the path, this
        process becomes that server and does not return.

    Raises:
        InputError: nothing to serve, a port that is taken, or a library that is not installed.
    """
    logging.basicConfig(format="spectrovae serve: %(message)s", stream=sys.stderr)
    logging.getLogger("spectrovae").setLevel(logging.INFO)
    binary = None if stand_in else shutil.which(BINARY)
    if binary:
        os.execv(binary, command(binary, options))
    _require(NEEDED)
    log.info(
        "no %s %s: this is a stand-in for development. It speaks TensorFlow Serving's protocols; for production run "
        "the image tensorflow/serving",
        BINARY, "asked for" if stand_in else "on the path",
    )  # fmt: skip
    # TensorFlow imports an installed Keras with itself; without it the process is smaller and starts sooner.
    sys.meta_path[:] = [Hiding(finder, ("keras", "tf_keras")) for finder in sys.meta_path]
    config.check(options.folder)
    from spectrovae.serving.server import stand_in as process

    return asyncio.run(process.run(options))


def command(binary: str, options: Options) -> list[str]:
    """The command line of TensorFlow Serving."""
    if 0 in (options.grpc_port, options.rest_port):
        raise InputError(f"{BINARY} cannot choose a port: give --rest-port and --grpc-port")
    if options.host not in ("0.0.0.0", "::"):
        raise InputError(
            f"{BINARY} listens on all interfaces and has no option to listen at {options.host} alone: give --host "
            "0.0.0.0 to allow that, or --stand-in for the server that listens where --host says"
        )
    if (options.folder / config.CONFIG).exists():
        _require({"tensorflow_serving": NEEDED["tensorflow_serving"]})  # reads it
    config.check(options.folder)
    # Written anew, as a models.config for containers names folders that are not here.
    file = _written(config.as_text(config.models(options.folder)), "models")
    arguments = [
        binary, f"--port={options.grpc_port}", f"--rest_api_port={options.rest_port}", f"--model_config_file={file}",
        f"--rest_api_timeout_in_ms={round(1e3 * options.call_timeout)}",
        f"--tensorflow_intra_op_parallelism={options.op_threads}",
        f"--file_system_poll_wait_seconds={max(1, round(options.poll))}",
    ]  # fmt: skip
    if options.batching:
        text = (
            f"max_batch_size {{ value: {options.max_batch} }}\n"
            f"batch_timeout_micros {{ value: {round(1e6 * options.batch_timeout)} }}\n"
            f"num_batch_threads {{ value: {options.batch_threads} }}\nmax_enqueued_batches {{ value: 1000 }}\n"
        )
        arguments += ["--enable_batching", f"--batching_parameters_file={_written(text, 'batching')}"]
    monitoring = options.folder / "monitoring.config"
    if monitoring.exists():
        arguments.append(f"--monitoring_config_file={monitoring}")
    log.warning("running %s: it listens on all interfaces, without authentication or encryption", " ".join(arguments))
    return arguments


def _require(packages: dict[str, str]) -> None:
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"serve needs {', '.join(missing)}: pip install 'spectrovae[serve]'")


def _written(text: str, stem: str) -> Path:
    """A file for the server that replaces this process, which deletes nothing."""
    with tempfile.NamedTemporaryFile("w", prefix=f"spectrovae-{stem}-", suffix=".config", delete=False) as file:
        file.write(text)
    return Path(file.name)
