"""The stand-in's process: both protocols on one event loop, the folder watched, an orderly end."""

import asyncio
import functools
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
from aiohttp import web

from spectrovae.errors import InputError
from spectrovae.serving.server import rpc
from spectrovae.serving.server.batching import Batching, Queues
from spectrovae.serving.server.engine import Engine
from spectrovae.serving.server.manager import Manager
from spectrovae.serving.server.options import Options
from spectrovae.serving.server.rest import Rest
from spectrovae.serving.server.servable import Servable

log = logging.getLogger(__name__)


async def run(options: Options) -> dict:
    """Serve until SIGTERM or SIGINT; requests that have come by then are answered.

    Returns:
        The numbers of requests ``answered`` and ``refused``.

    Raises:
        InputError: no model that can be loaded, or a port that is taken.
    """
    ended = _end_signal()
    tf.config.threading.set_intra_op_parallelism_threads(options.op_threads)
    joined = Batching(options.max_batch, options.batch_timeout, options.batch_threads)
    batching = None if options.batching is False else joined
    queues = Queues(alone=options.batch_threads)
    load = functools.partial(Servable, batching=batching, queues=queues, limits=options.limits)
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as loader:
        manager = Manager(options.folder, load, loader, options.poll)
        engine = Engine(manager, options.threads, options.call_timeout)
        await manager.refresh()
        if not manager.available():
            raise InputError(f"no model in {options.folder} could be loaded: {'; '.join(manager.failures())}")
        rest = web.AppRunner(
            Rest(engine, options).application(), access_log=None, handle_signals=False, lingering_time=1.0,
            shutdown_timeout=options.call_timeout,
        )  # fmt: skip
        grpc_server, health = rpc.server(engine, options)
        try:
            await rest.setup()
            ports = await _listen(rest, grpc_server, options)
            await health.set("", rpc.SERVING)
            watching = asyncio.ensure_future(manager.watch())
            if not options.loopback:
                log.warning(
                    "listening at %s, for whoever can reach it: there is no authentication and no encryption; put a "
                    "proxy before it",
                    options.host,
                )
            host = _bracketed(options.host)
            log.info("ready: REST at http://%s:%d/v1/models/NAME, gRPC at %s:%d", host, ports[0], host, ports[1])
            await ended.wait()
            log.info("stopping: %d requests are being answered", engine.busy)
            watching.cancel()
            await health.enter_graceful_shutdown()
        finally:
            await asyncio.gather(rest.cleanup(), grpc_server.stop(options.call_timeout))
            engine.close()
    if engine.busy:
        # Their time was up long ago, and Python would wait for their threads.
        log.error("stopped with %d calls of models that do not end", engine.busy)
        os._exit(1)
    return {"answered": engine.answered, "refused": engine.refused}


async def _listen(rest: web.AppRunner, grpc_server, options: Options) -> tuple[int, int]:
    """Bind both servers; their ports."""
    try:
        site = web.TCPSite(rest, options.host, options.rest_port)
        await site.start()
    except OSError as error:
        raise InputError(
            f"cannot listen at {options.host}:{options.rest_port} (--rest-port): {error.strerror}"
        ) from error
    try:
        grpc_port = grpc_server.add_insecure_port(f"{_bracketed(options.host)}:{options.grpc_port}")
    except RuntimeError as error:
        raise InputError(f"cannot listen at {options.host}:{options.grpc_port} (--grpc-port): {error}") from error
    await grpc_server.start()
    return rest.addresses[0][1], grpc_port


def _bracketed(host: str) -> str:
    """A host as a URL has it: an address with colons, of IPv6, in brackets."""
    return f"[{host}]" if ":" in host else host


def _end_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process as usual."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def end() -> None:
        ended.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    return ended
