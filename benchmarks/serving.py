"""The stand-in server beside calling the SavedModel in process, and what thousands of bad requests do to its memory.

    python benchmarks/serving.py [FOLDER] [--clients 1 8 32] [--rounds N] [--signature NAME] [--json FILE]
    python benchmarks/serving.py [FOLDER] --mixed 10000

FOLDER holds one exported model at NAME/VERSION; without it an untrained small VAE at 8 kHz is exported, which is as
fast as a trained one. Requests are clips of one second.

The first form starts two servers, with batching and without. In each round every way of calling takes its turn, so that
what else the machine does falls on all: in process, and through each server by gRPC and by REST, for each number of
clients. In process as in the servers an operation runs on one core. The clients are threads of this process, on the
same cores as the server. Latencies are of all rounds together; throughputs, and the CPU time of the server (or of this
process, where it calls the model itself), are medians over rounds. At the end a server is started several times, for
its first request.

The second form sends good and bad requests from 16 clients by both protocols, checks every answer, and prints how much
memory the server has gained since it had answered the first tenth.
"""

import argparse
import functools
import http.client
import itertools
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import orjson
import psutil
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from spectrovae import files

RATE = 8000
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


def export_untrained(folder: Path) -> None:
    """A small VAE with the default representation."""
    import spectrovae as sv

    representation = sv.representations.LogSTFT(RATE, n_fft=512, hop_length=128)
    model = sv.models.VAE(representation.feature_shape(8064), preset="small")
    sv.serving.export(
        sv.Codec(representation, model.encoder, model.decoder, family="vae", name="vae"), folder, check=False
    )


def request(model: str, signature: str, waveform: np.ndarray) -> predict_pb2.PredictRequest:
    """A gRPC request of a waveform (batch, samples)."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = model, signature
    message.inputs["waveform"].CopyFrom(tf.make_tensor_proto(waveform))
    return message


class Server:
    """The stand-in in a process of its own; ready when constructed."""

    def __init__(self, folder: Path, *options: str):
        ports = ("--rest-port=0", "--grpc-port=0")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spectrovae", "serve", folder, "--stand-in", *ports, *options],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for line in self.process.stderr:
            if found := re.search(r"ready: REST at http://127.0.0.1:(\d+)/.* gRPC at (\S+)", line):
                self.rest_port, self.grpc = int(found[1]), found[2]
                break
        else:
            raise RuntimeError("the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.channel = grpc.insecure_channel(self.grpc)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self._local = threading.local()

    def by_grpc(self, message: predict_pb2.PredictRequest) -> np.ndarray:
        (proto,) = self.stub.Predict(message).outputs.values()
        return tf.make_ndarray(proto)

    def by_rest(self, path: str, body: bytes) -> np.ndarray:
        return np.float32(self.post(path, body)[1]["outputs"])

    def post(self, path: str, body: bytes) -> tuple[int, dict]:
        """Status and document, on one connection for each thread."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self.rest_port)
        self._local.connection.request("POST", path, body)
        response = self._local.connection.getresponse()
        return response.status, orjson.loads(response.read())

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory(self) -> float:
        """Resident MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def stop(self) -> int:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def timed(call: Callable, clients: int, count: int) -> tuple[list[float], float]:
    """Seconds of each of ``count`` calls from so many threads, and calls per second."""
    seconds = []

    def one(_):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))  # connects
        seconds.clear()
        start = time.perf_counter()
        list(pool.map(one, range(count)))
        return seconds, count / (time.perf_counter() - start)


def target(name: str, value: float, bound: float, unit: str, at_most: bool) -> dict:
    met = bool(value <= bound if at_most else value >= bound)
    print(
        f"{'met   ' if met else 'MISSED'} {name}: {value:.2f} {unit}, {'at most' if at_most else 'at least'} {bound:g}"
    )
    return {"target": name, "value": float(value), "bound": bound, "met": met}


def speed(folder: Path, model: str, options: argparse.Namespace) -> dict:
    """Latency and throughput of every way of calling."""
    version = max((folder / model).iterdir(), key=lambda path: int(path.name))
    waveform = (0.1 * np.random.default_rng(0).standard_normal((1, RATE))).astype(np.float32)
    message = request(model, options.signature, waveform)
    if not (version / WARMUP).exists():
        (version / WARMUP).parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(version / WARMUP)) as writer:
            log = prediction_log_pb2.PredictLog(request=message)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    path = f"/v1/models/{model}:predict"
    body = orjson.dumps({"signature_name": options.signature, "inputs": waveform.tolist()})
    loaded = tf.saved_model.load(str(version))
    function = loaded.signatures[options.signature]

    def in_process():
        (output,) = function(waveform=tf.constant(waveform)).values()
        return output.numpy()

    servers = {"batching": Server(folder), "each alone": Server(folder, "--no-batching")}
    ways: dict[tuple[str, str], tuple[Callable, Callable]] = {("in process", ""): (in_process, time.process_time)}
    for name, server in servers.items():
        ways["gRPC", name] = functools.partial(server.by_grpc, message), server.cpu
        ways["REST", name] = functools.partial(server.by_rest, path, body), server.cpu
    expected = in_process()
    for way, (call, _) in ways.items():
        difference = np.abs(call() - expected).max() / np.abs(expected).max()
        print(f"{' '.join(way):20} differs from in process by {difference:.1e} of the peak", file=sys.stderr)
    latencies = {key: [] for key in itertools.product(ways, options.clients)}
    rates = {key: [] for key in latencies}
    costs = {key: [] for key in latencies}
    for index in range(options.rounds):
        for (way, clients), times in latencies.items():
            call, cpu = ways[way]
            count = max(20, 8 * clients)  # many, as the last ones find nobody to share a batch with
            before = cpu()
            seconds, rate = timed(call, clients, count)
            times += seconds
            rates[way, clients].append(rate)
            costs[way, clients].append(1e3 * (cpu() - before) / (count + clients))
        print(f"round {index + 1} of {options.rounds}", file=sys.stderr)
    for server in servers.values():
        server.stop()

    rows = []
    print("latencies and CPU time of a clip in ms\n")
    print(f"{'':12} {'':10} {'clients':>7} {'p50':>8} {'p90':>8} {'p99':>8} {'CPU':>8} {'clips/s':>8}")
    for (way, clients), times in latencies.items():
        p50, p90, p99 = (1e3 * np.percentile(times, percent) for percent in (50, 90, 99))
        rate, cost = statistics.median(rates[way, clients]), statistics.median(costs[way, clients])
        print(f"{way[0]:12} {way[1]:10} {clients:7} {p50:8.1f} {p90:8.1f} {p99:8.1f} {cost:8.1f} {rate:8.1f}")
        rows.append(
            {"way": way, "clients": clients, "p50": p50, "p90": p90, "p99": p99, "cpu": cost, "clips_per_second": rate}
        )

    # One call of each in turn: the overhead is far smaller than what the machine's load changes between rounds.
    print("", file=sys.stderr)
    firsts, pairs = [], []
    for _ in range(options.starts):
        server = Server(folder)
        start = time.perf_counter()
        server.by_grpc(message)
        firsts.append(time.perf_counter() - start)
        for _ in range(40):
            pairs.append([timed(call, 1, 1)[0][0] for call in (in_process, functools.partial(server.by_grpc, message))])
        server.stop()
    alone, served = np.median(pairs, axis=0)
    most = max(options.clients)
    on, off = (("gRPC", name) for name in ("batching", "each alone"))
    gain = statistics.median(a / b for a, b in zip(rates[on, most], rates[off, most]))
    saved = statistics.median(a / b for a, b in zip(costs[off, most], costs[on, most]))
    limit = batch_limit(function, waveform, 8)
    print(f"\nCPU time without batching to that with it, {most} clients: {saved:.2f}")
    print(f"CPU time of the model on 8 clips one by one to that on 8 at once, no server: {limit:.2f}")
    targets = [
        target("gRPC overhead at the median, 1 client", 1e3 * (served - alone), 2.0, "ms", True),
        target(f"throughput by batching, {most} clients", gain, 1.5, "times", False),
        target(
            "first request of a warmed server, to the median", statistics.median(firsts) / served, 2.0, "times", True
        ),
    ]
    return {"rows": rows, "targets": targets, "cpu_saved": saved, "cpu_limit": limit}


def batch_limit(function, waveform: np.ndarray, clips: int) -> float:
    """CPU time of single calls over that of one call of a batch: what batching can gain at the very most."""
    one, many = tf.constant(waveform), tf.constant(np.tile(waveform, (clips, 1)))
    ratios = []
    for _ in range(11):
        start = time.process_time()
        for _ in range(clips):
            function(waveform=one)
        middle = time.process_time()
        function(waveform=many)
        ratios.append((middle - start) / (time.process_time() - middle))
    return statistics.median(ratios[1:])


def mixed(folder: Path, model: str, count: int) -> dict:
    """Good and bad requests at the same time; every one must get its answer."""
    server = Server(folder)
    path = f"/v1/models/{model}:predict"
    generator = np.random.default_rng(0)
    sounds = [generator.uniform(-0.1, 0.1, (1, samples)).astype(np.float32) for samples in range(1, 401)]
    bad_bodies = [
        b"",
        b"[]",
        b"{",
        b'{"inputs": [[NaN]]}',
        b'{"inputs": [["a"]]}',
        b'{"inputs": [[]]}',
        b'{"inputs": [1]}',
    ]
    broken = [sounds[9].astype(np.float64), sounds[9][0], sounds[9][:0], np.full_like(sounds[9], np.nan)]

    def one(index: int) -> bool:
        kind, index = index % 4, index // 4
        sound = sounds[index % len(sounds)]
        if kind == 0:
            return server.by_grpc(request(model, "", sound)).shape == sound.shape
        if kind == 1:
            return server.by_rest(path, orjson.dumps({"inputs": sound.tolist()})).shape == sound.shape
        if kind == 2:
            status, document = server.post(path, bad_bodies[index % len(bad_bodies)])
            return status == 400 and bool(document["error"])
        try:
            server.by_grpc(request(model, "", broken[index % len(broken)]))
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.INVALID_ARGUMENT
        return False

    memory = []
    right = 0
    tenth = max(1, count // 10)
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, count, tenth):
            right += sum(pool.map(one, range(start, min(count, start + tenth))))
            memory.append(server.memory())
            print(f"{start + tenth} sent, {right} answered as they should be, {memory[-1]:.0f} MiB", file=sys.stderr)
    status = server.stop()
    print(f"{count} requests, {count - right} lost or wrong, exit status {status}")
    grown = memory[-1] - memory[0]
    print(f"memory: {memory[0]:.0f} MiB after the first tenth, {memory[-1]:.0f} at the end: grown by {grown:.1f} MiB")
    return {"count": count, "right": right, "memory_mib": memory, "status": status}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=3, help="of a server, for its first request")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--mixed", type=int, metavar="N", help="send this many good and bad requests instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)  # the server's default
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)  # a copy: warm-up records may be added
        if options.folder:
            shutil.copytree(options.folder, folder, dirs_exist_ok=True)
        else:
            export_untrained(folder)
        (model,) = (entry.name for entry in folder.iterdir() if entry.is_dir())
        result = mixed(folder, model, options.mixed) if options.mixed else speed(folder, model, options)
    if options.json:
        files.write_json(options.json, result)


if __name__ == "__main__":
    main()
