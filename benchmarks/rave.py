"""RAVE at 48 kHz on the CPU beside a PyTorch build of the same layers, filter bank included, and its streaming.

    pip install "spectrovae[bench]"
    python benchmarks/rave.py [--json FILE] [--repeats 20] [--versions v1,v2] [--threads 2,1] [--blocks 600] [--traced]

Ours is an untrained codec of preset ``paper`` as its users call it (``reconstruct``, ``encode``, ``decode``: NumPy in
and out). The peer has the same weights and runs eagerly under ``inference_mode``; padding, transposed convolutions,
filtered noise by FFT and the polyphase filter bank are as in the code of RAVE's authors. That both give the same
latents and, but for the noise, the same waveforms is measured first.

Each build lives in a process of its own, because the threads of either library would spin while the other works. The
processes take turns, so that other load on the machine falls on all of them, and times are the least of the repeats.
Where other load leaves no core free, spinning OpenMP threads wait for one that does not run; a second PyTorch sleeps
instead (``OMP_WAIT_POLICY=passive``), and ratios are to the faster of the two. CPU time on one thread depends least on
other load. Progress goes to stderr, the tables to stdout.
"""

import argparse
import contextlib
import importlib.util
import math
import multiprocessing
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

SAMPLE_RATE = 48000
BANDS = 16
SAMPLES = 131072
BLOCK = 2048
TARGET = 2.0  # times as fast as eager PyTorch, round trip in float32
BLOCK_TARGET = 1 / 3  # of a block's duration, 99th percentile
PARAMETERS = {"v1": 17.62e6, "v2": 31.56e6}  # encoder and decoder, of the authors' code
# Library, options of the build, environment of its process.
BUILDS: dict[str, tuple[str, dict, dict]] = {
    "ours": ("keras", {}, {}),
    "ours, bfloat16": ("keras", {"policy": "mixed_bfloat16"}, {}),
    "PyTorch": ("torch", {}, {}),
    "PyTorch, passive": ("torch", {}, {"OMP_WAIT_POLICY": "passive"}),
    "PyTorch, traced": ("torch", {"traced": True}, {"OMP_WAIT_POLICY": "passive"}),
}
PEERS = ("PyTorch", "PyTorch, passive")
WAYS = ("round trip", "encode", "decode")


# Ours. TensorFlow is loaded where it is needed, so that it does not live in PyTorch's process.


def make_codec(version, causal=False):
    from spectrovae.codec import Codec
    from spectrovae.models import RAVE
    from spectrovae.representations import Subbands

    representation = Subbands(SAMPLE_RATE, bands=BANDS)
    frames = SAMPLES // BANDS
    model = RAVE((BANDS, frames, 1), preset="paper", version=version, causal=causal)
    for layer in model.encoder.layers:  # moments that training might have found, so that normalisation does something
        if layer.name.startswith("norm_"):
            random = np.random.default_rng(len(layer.name))
            layer.moving_mean.assign(0.01 * random.standard_normal(layer.moving_mean.shape))
            layer.moving_variance.assign(random.uniform(0.01, 0.1, layer.moving_variance.shape))
    codec = Codec(representation, model.encoder, model.decoder, family="rave", prior=model.prior, segment_frames=frames)
    return codec, model


def set_gate(codec, heard):
    codec.decoder.get_layer("noise").gate.assign(float(heard))


def serve_keras(threads, version, policy="float32", causal=False):
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    codec, model = make_codec(version, causal)

    def weights():
        parts = (codec.encoder, codec.decoder)
        return {
            "sizes": {"ratios": model.ratios, "latent_dim": model.latent_dim, "bands": BANDS, "version": version},
            "filters": np.asarray(model.filters, np.float32),
            **{
                part.name: {layer.name: list(map(np.asarray, layer.weights)) for layer in part.layers if layer.weights}
                for part in parts
            },
        }

    def plain(waveform):
        """Latent and decoded waveform without noise."""
        set_gate(codec, False)
        latent = codec.encode(waveform)
        decoded = codec.decode(latent)
        set_gate(codec, True)
        return latent.reshape(len(latent), -1, latent.shape[-1]), decoded

    set_gate(codec, True)
    return {
        "weights": weights,
        "plain": plain,
        "parameters": lambda: (
            sum(math.prod(w.shape) for w in codec.encoder.trainable_weights)
            + sum(math.prod(w.shape) for w in codec.decoder.trainable_weights)
        ),
        "round trip": codec.reconstruct,
        "encode": codec.encode,
        "decode": codec.decode,
        "stream": lambda blocks: stream(codec, blocks),
    }


def stream(codec, blocks):
    """(wall, CPU) seconds of each call, after 20 that do not count, and the latency in samples and in ms."""
    from spectrovae.streaming import StreamingCodec

    live = StreamingCodec(codec, block_size=BLOCK)
    waveform = noise(1, (blocks + 20) * BLOCK)
    out, times = np.empty((1, BLOCK), np.float32), []
    for start in range(0, waveform.shape[1], BLOCK):
        times.append(seconds(live.process, waveform[:, start : start + BLOCK], out))
    return times[20:], live.latency, live.latency_ms


# The peer.


def serve_torch(threads, weights, traced=False):
    import torch

    torch.set_num_threads(threads)
    sizes = weights["sizes"]
    encoder, decoder = (build(weights, torch) for build in (torch_encoder, torch_decoder))
    bank = torch_bank(weights["filters"], torch)
    parameters = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())

    class Encode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.analysis = encoder, bank[0]

        def forward(self, waveform):
            return self.encoder(self.analysis(waveform)).transpose(1, 2)

    class Decode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.synthesis = decoder, bank[1]

        def forward(self, latent):
            return self.synthesis(self.decoder(latent.transpose(1, 2)))

    encode, decode = Encode().eval(), Decode().eval()
    plain_encode, plain_decode = encode, decode
    if traced:
        with torch.inference_mode():
            examples = torch.zeros(1, SAMPLES), torch.zeros(1, SAMPLES // BLOCK, sizes["latent_dim"])
            encode, decode = (
                torch.jit.freeze(torch.jit.trace(part, example, check_trace=False))
                for part, example in zip((encode, decode), examples)
            )

    @torch.inference_mode()
    def run(parts, given):
        x = torch.from_numpy(given)
        for part in parts:
            x = part(x)
        return x.numpy()

    def plain(waveform):
        latent = run([plain_encode], waveform)
        decoder.heard = False
        decoded = run([plain_decode], latent)
        decoder.heard = True
        return latent, decoded

    return {
        "plain": plain,
        "parameters": lambda: parameters,
        "round trip": lambda waveform: run([encode, decode], waveform),
        "encode": lambda waveform: run([encode], waveform),
        # Our latents have an axis of segments.
        "decode": lambda latent: run([decode], latent.reshape(len(latent), -1, latent.shape[-1])),
    }


def torch_layers(given, torch):
    """Makers of layers with the weights of ours, by name."""
    nn = torch.nn

    def assign(parameter, value):
        parameter.data = torch.from_numpy(np.ascontiguousarray(value))

    def conv(name, stride=1, dilation=1, groups=1):
        kernel, bias = given[name]
        taps, channels, filters = kernel.shape
        reach = (taps - 1) * dilation + 1 - stride
        before, after = reach // 2, reach - reach // 2
        even = before == after
        layer = nn.Conv1d(
            channels * groups, filters, taps, stride, before if even else 0, dilation=dilation, groups=groups
        )
        assign(layer.weight, kernel.transpose(2, 1, 0))
        assign(layer.bias, bias)
        return layer if even else nn.Sequential(nn.ConstantPad1d((before, after), 0.0), layer)

    def up(name, ratio):
        kernel, bias = given[name]
        _, channels, width = kernel.shape
        layer = nn.ConvTranspose1d(channels, width // ratio, 2 * ratio, ratio, ratio // 2)
        taps = kernel[::-1].reshape(2, channels, ratio, width // ratio)  # the first is of the input itself
        assign(layer.weight, taps.transpose(1, 3, 0, 2).reshape(channels, width // ratio, 2 * ratio))
        assign(layer.bias, bias)
        return layer

    def norm(name):
        scale, offset, mean, variance = given[name]
        layer = nn.BatchNorm1d(len(scale), eps=1e-3)
        for parameter, value in ((layer.weight, scale), (layer.bias, offset)):
            assign(parameter, value)
        for buffer, value in ((layer.running_mean, mean), (layer.running_var, variance)):
            buffer.copy_(torch.from_numpy(value))
        return layer

    return conv, up, norm


def torch_units(conv, torch, version, last):
    """A maker of the residual units of one resolution."""
    nn = torch.nn

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    dilations = (1, 3, 5) if version == "v1" else (1, 3) if last else (1, 3, 9)

    def units(prefix):
        return [
            Residual(
                nn.LeakyReLU(0.2),
                conv(f"{prefix}_unit_{dilation}a", dilation=dilation),
                nn.LeakyReLU(0.2),
                conv(f"{prefix}_unit_{dilation}b"),
            )
            for dilation in dilations
        ]

    return units


def torch_encoder(weights, torch):
    sizes, nn = weights["sizes"], torch.nn
    conv, _, norm = torch_layers(weights["encoder"], torch)
    first = sizes["version"] == "v1"
    parts = [conv("in")]
    for index, ratio in enumerate(sizes["ratios"]):
        last = index == len(sizes["ratios"]) - 1
        units = torch_units(conv, torch, sizes["version"], last)
        parts += [norm(f"norm_{index}")] if first else units(f"down_{index}")
        parts += [nn.LeakyReLU(0.2), conv(f"down_{index}", ratio)]
    parts += [nn.LeakyReLU(0.2), conv("out", groups=2 if first else 1)]

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*parts)

        def forward(self, bands):
            return self.net(bands)[:, : sizes["latent_dim"]]

    return Encoder().eval()


def torch_decoder(weights, torch):
    sizes, nn = weights["sizes"], torch.nn
    conv, up, _ = torch_layers(weights["decoder"], torch)
    first, bands = sizes["version"] == "v1", sizes["bands"]
    ratios = list(enumerate(sizes["ratios"]))
    body = [conv("in")]
    for place, (index, ratio) in enumerate(ratios if first else ratios[::-1]):
        units = torch_units(conv, torch, sizes["version"], index == len(ratios) - 1)
        body += [nn.LeakyReLU(0.2), up(f"up_{place}", ratio), *units(f"up_{place}")]
    body += [] if first else [nn.LeakyReLU(0.2)]
    shaping = []
    while f"noise_{len(shaping) // 2}" in weights["decoder"]:
        shaping += [conv(f"noise_{len(shaping) // 2}", 4), nn.LeakyReLU(0.2)]

    def soft_sigmoid(x):
        return 2 * torch.sigmoid(x) ** 2.3 + 1e-7

    class Noise(nn.Module):
        """As the authors': responses by inverse FFT, windowed, and a block of noise through each by FFT."""

        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*shaping[:-1])
            self.size = 4 ** (len(shaping) // 2)

        def forward(self, x):
            amplitudes = soft_sigmoid(self.net(x) - 5).transpose(1, 2)
            amplitudes = amplitudes.reshape(*amplitudes.shape[:2], bands, -1)
            response = torch.fft.irfft(torch.complex(amplitudes, torch.zeros_like(amplitudes)))
            taps = response.shape[-1]
            response = torch.roll(response, taps // 2, -1) * torch.hann_window(taps)
            response = torch.roll(nn.functional.pad(response, (0, self.size - taps)), -taps // 2, -1)
            noise = 2 * torch.rand_like(response) - 1
            noise, response = nn.functional.pad(noise, (0, self.size)), nn.functional.pad(response, (self.size, 0))
            found = torch.fft.irfft(torch.fft.rfft(noise) * torch.fft.rfft(response))[..., self.size :]
            return found.permute(0, 2, 1, 3).reshape(x.shape[0], bands, -1)

    class Decoder(nn.Module):
        heard = True

        def __init__(self):
            super().__init__()
            self.body, self.waveform, self.noise = nn.Sequential(*body), conv("waveform"), Noise()
            self.level = conv("loudness" if first else "amplitude")

        def forward(self, latent):
            x = self.body(latent)
            if first:
                y = torch.tanh(self.waveform(x)) * soft_sigmoid(self.level(x))
            else:
                y = torch.tanh(self.waveform(x) * torch.sigmoid(self.level(x)))
            return y + self.noise(x) if self.heard else y

    return Decoder().eval()


def torch_bank(filters, torch):
    """Analysis and synthesis, each a convolution over blocks of as many samples as there are bands."""
    bands, taps = filters.shape
    kernel = filters.reshape(bands, taps // bands, bands).transpose(0, 2, 1)  # (bands, samples of a block, taps)
    reach = taps // bands // 2

    class Analysis(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.from_numpy(np.ascontiguousarray(kernel)))

        def forward(self, waveform):
            blocks = waveform.reshape(waveform.shape[0], -1, bands).transpose(1, 2)
            return torch.nn.functional.conv1d(blocks, self.kernel, padding=reach)

    class Synthesis(torch.nn.Module):
        def __init__(self):
            super().__init__()
            mirrored = np.ascontiguousarray(bands * kernel[:, :, ::-1].transpose(1, 0, 2))
            self.register_buffer("kernel", torch.from_numpy(mirrored))

        def forward(self, subbands):
            blocks = torch.nn.functional.conv1d(subbands, self.kernel, padding=reach)
            return blocks.transpose(1, 2).reshape(subbands.shape[0], -1)

    return Analysis(), Synthesis()


# Processes that take turns.


def noise(batch, samples):
    return 0.1 * np.random.default_rng(0).standard_normal((batch, samples), np.float32)


def seconds(call, *given):
    """(wall, CPU) seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call(*given)
    return time.perf_counter() - wall, time.process_time() - cpu


class Worker:
    """A process that holds one build and does what it is asked, one thing at a time."""

    def __init__(self, library, environment, **options):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, library, options), daemon=True)
        before = dict(os.environ)
        os.environ.update(environment)  # read when its threads are made, so it must be there from the start
        self.process.start()
        os.environ.clear()
        os.environ.update(before)

    def __call__(self, name, *given, timed=0):
        """What the build's ``name`` returns; or, ``timed`` times in a row, the least (wall, CPU) seconds."""
        self.connection.send((name, given, timed))
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self):
        self.connection.send(None)
        self.process.join()


def work(connection, library, options):
    try:
        calls, failure = {"keras": serve_keras, "torch": serve_torch}[library](**options), None
    except Exception as error:
        calls, failure = {}, error
    while (asked := connection.recv()) is not None:
        name, given, timed = asked
        if failure is not None:
            connection.send(failure)
        elif timed:
            times = [seconds(calls[name], *given) for _ in range(timed)]
            connection.send(tuple(np.min(times, axis=0)))
        else:
            connection.send(calls[name](*given))


def measure(version, names, threads, repeats):
    """Rows of the first table, and one of the second: parameters, and the largest difference of the builds."""
    waveform = noise(1, SAMPLES)
    workers: dict[str, Worker] = {}
    for name in names:
        print(f"{version}, {threads} threads, {name}: first calls", file=sys.stderr)
        library, options, environment = BUILDS[name]
        own = {"version": version} if library == "keras" else {"weights": workers["ours"]("weights")}
        workers[name] = Worker(library, environment, threads=threads, **own, **options)
    given = {"round trip": waveform, "encode": waveform, "decode": workers["ours"]("encode", waveform)}
    found = [workers[name]("plain", waveform) for name in ("ours", "PyTorch")]
    difference = max(20 * math.log10(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in zip(*found))
    counts = {name: workers[name]("parameters") for name in ("ours", "PyTorch")}
    times: dict = {(way, name): [] for way in WAYS for name in names}
    for way, name in times:
        workers[name](way, given[way], timed=3)
    for repeat in range(repeats):
        print(f"{version}, {threads} threads: repeat {repeat + 1} of {repeats}", file=sys.stderr)
        for way, name in times:
            times[way, name].append(workers[name](way, given[way], timed=2))  # the first wakes the threads
    for worker in workers.values():
        worker.end()
    rows = []
    for way in WAYS:
        wall, cpu = np.min([np.min(times[way, name], axis=0) for name in PEERS], axis=0)
        median = min(np.median(times[way, name], axis=0)[0] for name in PEERS)
        for name in names:
            least = np.min(times[way, name], axis=0)
            usual = np.median(times[way, name], axis=0)[0]
            rows.append(
                {
                    "version": version,
                    "threads": threads,
                    "way": way,
                    "build": name,
                    "ms": 1e3 * least[0],
                    "median_ms": 1e3 * usual,
                    "cpu_ms": 1e3 * least[1],
                    "times_realtime": SAMPLES / SAMPLE_RATE / least[0],
                    "speed": wall / least[0],
                    "median_speed": median / usual,
                    "cpu_speed": cpu / least[1],
                }
            )
    return rows, {"version": version, **counts, "wanted": PARAMETERS[version], "difference_db": difference}


def measure_streaming(version, threads, blocks):
    print(f"{version}: {blocks} blocks", file=sys.stderr)
    worker = Worker("keras", {}, threads=threads, version=version, causal=True)
    times, latency, latency_ms = worker("stream", blocks)
    worker.end()
    wall, cpu = np.transpose(times) * SAMPLE_RATE / BLOCK
    return {
        "version": version,
        "blocks": blocks,
        "median_ms": 1e3 * BLOCK / SAMPLE_RATE * float(np.median(wall)),
        "median_share": float(np.median(wall)),
        "p99_share": float(np.percentile(wall, 99)),
        "worst_share": float(wall.max()),
        "p99_cpu_share": float(np.percentile(cpu, 99)),
        "latency_samples": latency,
        "latency_ms": latency_ms,
    }


def has_bfloat16():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as stream:
        return "avx512_bf16" in stream.read()
    return False


def show(rows, counts, streams, repeats):
    print(f"{SAMPLES} samples at {SAMPLE_RATE / 1000:g} kHz, batch 1, least of {repeats} repeats\n")
    print(
        "| | threads | | build | ms | median | CPU, ms | times realtime | times PyTorch | by medians | in CPU time "
        "| wanted |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        wanted = f"{TARGET:.0f}" if (row["way"], row["build"]) == ("round trip", "ours") else ""
        print(
            f"| {row['version']} | {row['threads']} | {row['way']} | {row['build']} | {row['ms']:.1f} "
            f"| {row['median_ms']:.1f} | {row['cpu_ms']:.1f} | {row['times_realtime']:.1f} | {row['speed']:.2f} "
            f"| {row['median_speed']:.2f} | {row['cpu_speed']:.2f} | {wanted} |"
        )
    print("\n| | trained parameters | PyTorch's | the authors' | difference of the builds, dB |")
    print("|---|---|---|---|---|")
    for row in counts:
        print(
            f"| {row['version']} | {row['ours'] / 1e6:.3f} M | {row['PyTorch'] / 1e6:.3f} M "
            f"| {row['wanted'] / 1e6:.2f} M ({row['ours'] / row['wanted'] - 1:+.2%}) | {row['difference_db']:.0f} |"
        )
    print(f"\nBlocks of {BLOCK} samples, {1e3 * BLOCK / SAMPLE_RATE:.1f} ms, without a pause; parts are of that\n")
    print(
        "| | blocks | median, ms | median, part | 99 % | worst | 99 % in CPU time | wanted of 99 % | latency, samples "
        "| ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in streams:
        print(
            f"| {row['version']} | {row['blocks']} | {row['median_ms']:.1f} | {row['median_share']:.1%} "
            f"| {row['p99_share']:.1%} | {row['worst_share']:.1%} | {row['p99_cpu_share']:.1%} | {BLOCK_TARGET:.1%} "
            f"| {row['latency_samples']} | {row['latency_ms']:.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the tables there too")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--versions", default="v1,v2")
    parser.add_argument("--threads", default="2,1", help="of each build; streaming takes the first")
    parser.add_argument("--blocks", type=int, default=600, help="to stream")
    parser.add_argument("--traced", action="store_true", help="PyTorch traced and frozen, too")
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        parser.error("the peer is PyTorch, which is not installed: pip install 'spectrovae[bench]'")
    threads = [int(count) for count in options.threads.split(",")]
    left_out = [*([] if has_bfloat16() else ["ours, bfloat16"]), *([] if options.traced else ["PyTorch, traced"])]
    names = [name for name in BUILDS if name not in left_out]
    rows, counts, streams = [], [], []
    for version in options.versions.split(","):
        for count in threads:
            found, counted = measure(version, names, count, options.repeats)
            rows += found
        counts.append(counted)
        streams.append(measure_streaming(version, threads[0], options.blocks))
    show(rows, counts, streams, options.repeats)
    if options.json:
        from spectrovae.files import write_json

        write_json(options.json, {"repeats": options.repeats, "rows": rows, "parameters": counts, "streaming": streams})


if __name__ == "__main__":
    main()
