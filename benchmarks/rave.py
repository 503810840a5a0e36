"""RAVE of the paper's size at 48 kHz on a CPU: as many times real time, beside a PyTorch build of the same layers.

    python benchmarks/rave.py [--json FILE] [--repeats 12] [--seconds 2.73] [--threads 2]

Each library runs in a process of its own, in turn with the other, one measurement a turn, so that other load on the
machine falls on both and neither's idle threads are in the other's way; the times are the least of the turns. A round
trip is waveform to waveform, filter bank included, of one sound in float32. Then a causal codec is driven as by a live
host, in blocks of 2 048 samples. Needs PyTorch (``pip install spectrovae[bench]``).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

RATE, BANDS, BLOCK = 48_000, 16, 2048
CONTENDERS = ("spectrovae", "bfloat16", "pytorch", "weight norm")
TARGET, SHARE = 2.0, 1.0 / 3.0
"""A round trip at twice PyTorch's speed; a block in a third of its own duration, at the 99th percentile."""


class Ours:
    """The codec as its users reach it."""

    def __init__(self, threads: int, causal: bool = False, version: str = "v1", precision: str = "float32"):
        import keras
        import tensorflow as tf

        from spectrovae.codec import Codec
        from spectrovae.models import RAVE
        from spectrovae.representations import Subbands

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        keras.mixed_precision.set_global_policy(precision)
        trainer = RAVE((BANDS, 8192, 1), preset="paper", causal=causal, version=version)
        self.parameters = sum(
            int(np.prod(weight.shape))
            for model in (trainer.encoder, trainer.decoder)
            for weight in model.trainable_weights
        )
        trainer.enter(2)  # the noise is heard
        self.codec = Codec(
            Subbands(RATE, bands=BANDS), trainer.encoder, trainer.decoder, family="rave", segment_frames=8192
        )
        self.latent = None

    def run(self, what: str, waveform: np.ndarray) -> None:
        if what == "round trip":
            self.codec.reconstruct(waveform)
        elif what == "encode":
            self.latent = self.codec.encode(waveform)
        else:
            self.codec.decode(self.latent, waveform.shape[1])


class Theirs:
    """The paper's networks in PyTorch, in inference mode; weight normalisation is its authors', until they export."""

    def __init__(self, threads: int, weight_norm: bool = False):
        try:
            import torch
        except ImportError as error:
            raise SystemExit("this benchmark compares with PyTorch: pip install spectrovae[bench]") from error
        from torch import nn
        from torch.nn import functional

        from spectrovae.dsp import pqmf

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        taps = torch.tensor(np.array(pqmf.pqmf_filters(BANDS)), dtype=torch.float32)
        blocks = taps.shape[1] // BANDS
        # Polyphase: blocks of samples as channels.
        bank = taps.flip(-1).reshape(BANDS, blocks, BANDS).permute(0, 2, 1).contiguous()

        def activation():
            return nn.LeakyReLU(0.2)

        def same(inputs, outputs, kernel, dilation=1, stride=1, groups=1):
            reach = (kernel - 1) * dilation + 1 - stride
            padding = nn.ConstantPad1d((reach // 2, reach - reach // 2), 0.0)
            return nn.Sequential(padding, nn.Conv1d(inputs, outputs, kernel, stride, 0, dilation, groups))

        class Residual(nn.Module):
            def __init__(self, width, dilation):
                super().__init__()
                self.net = nn.Sequential(
                    activation(), same(width, width, 3, dilation), activation(), same(width, width, 3)
                )

            def forward(self, x):
                return x + self.net(x)

        ratios, width, latent = (4, 4, 4, 2), 64, 128
        layers = [same(BANDS, width, 7)]
        for ratio in ratios:
            layers += [nn.BatchNorm1d(width), activation(), same(width, 2 * width, 2 * ratio + 1, stride=ratio)]
            width *= 2
        self.encoder = nn.Sequential(*layers, activation(), same(width, 2 * latent, 5, groups=2))
        layers = [same(latent, width, 7)]
        for ratio in ratios:
            layers += [activation(), nn.ConvTranspose1d(width, width // 2, 2 * ratio, ratio, ratio // 2)]
            width //= 2
            layers += [Residual(width, dilation) for dilation in (1, 3, 5)]
        self.trunk = nn.Sequential(*layers)
        self.wave, self.loudness = same(width, BANDS, 7), same(width, 1, 3)
        self.noise = nn.Sequential(
            same(width, width, 5, stride=4), activation(), same(width, width, 5, stride=4), activation(),
            same(width, BANDS * 5, 5, stride=4),
        )  # fmt: skip
        modules = [self.encoder, self.trunk, self.wave, self.loudness, self.noise]
        for module in modules:
            module.eval()
        self.parameters = sum(p.numel() for module in modules for p in module.parameters())
        if weight_norm:
            for layer in [layer for module in modules for layer in module.modules()]:
                if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                    nn.utils.parametrizations.weight_norm(layer)
        self.torch, self.latent, window = torch, None, torch.hann_window(8)

        def soft(x):
            return 2.0 * torch.sigmoid(x) ** 2.3 + 1e-7

        def noisy(x):
            amplitudes = soft(self.noise(x) - 5.0).permute(0, 2, 1).reshape(x.shape[0], -1, BANDS, 5)
            response = torch.fft.irfft(torch.complex(amplitudes, torch.zeros_like(amplitudes)))
            response = functional.pad(torch.roll(response, 4, -1) * window, (0, 64 - 8)).roll(-4, -1)
            sound = torch.rand(*response.shape) * 2.0 - 1.0
            sound = torch.fft.irfft(torch.fft.rfft(functional.pad(sound, (64, 0))) * torch.fft.rfft(
                functional.pad(response, (64, 0))
            ))[..., 64:]  # fmt: skip
            return sound.permute(0, 2, 1, 3).reshape(x.shape[0], BANDS, -1)

        def encode(x):
            x = x.reshape(1, -1, BANDS).transpose(1, 2)
            x = functional.conv1d(x, bank, padding=blocks // 2)[..., : x.shape[-1]]
            return self.encoder(x)[:, :latent]

        def decode(z):
            x = self.trunk(z)
            y = torch.tanh(self.wave(x)) * soft(self.loudness(x)) + noisy(x)
            y = functional.conv1d(y, bank.transpose(0, 1).flip(-1), padding=blocks // 2)[..., : y.shape[-1]]
            return y.transpose(1, 2).reshape(1, -1)

        self.encode, self.decode = encode, decode

    def run(self, what: str, waveform: np.ndarray) -> None:
        with self.torch.inference_mode():
            if what == "decode":
                self.decode(self.latent).numpy()
                return
            latent = self.encode(self.torch.from_numpy(waveform))
            if what == "encode":
                self.latent = latent
                latent.numpy()
            else:
                self.decode(latent).numpy()


def child(options: argparse.Namespace) -> None:
    """Wait for lines that say what to do, and answer each with seconds."""
    waveform = 0.1 * np.random.default_rng(0).standard_normal((1, samples_of(options))).astype(np.float32)
    if options.child == "live":
        print(json.dumps(live(options)), flush=True)
        return
    made = {
        "spectrovae": lambda: Ours(options.threads),
        "bfloat16": lambda: Ours(options.threads, precision="mixed_bfloat16"),
        "pytorch": lambda: Theirs(options.threads),
        "weight norm": lambda: Theirs(options.threads, weight_norm=True),
    }[options.child]()
    for what in ("encode", "decode", "round trip"):
        made.run(what, waveform)
    print(json.dumps(made.parameters), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        made.run(line.strip(), waveform)
        print(time.perf_counter() - started, flush=True)


def live(options: argparse.Namespace) -> dict:
    """Seconds of each of many blocks through a causal codec."""
    from spectrovae.streaming import StreamingCodec

    stream = StreamingCodec(Ours(options.threads, causal=True).codec, block_size=BLOCK)
    blocks = 0.1 * np.random.default_rng(0).standard_normal((options.blocks, 1, BLOCK)).astype(np.float32)
    out, seconds = np.empty((1, BLOCK), np.float32), []
    for block in blocks:
        started = time.perf_counter()
        stream.process(block, out)
        seconds.append(time.perf_counter() - started)
    return {"latency_samples": stream.latency, "latency_ms": stream.latency_ms, "seconds": seconds[10:]}


def samples_of(options: argparse.Namespace) -> int:
    """Of the sound: whole latent frames."""
    return max(1, round(options.seconds * RATE / BLOCK)) * BLOCK


def start(name: str, arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, __file__, "--child", name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.73)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--child", choices=(*CONTENDERS, "live"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    arguments = [
        "--seconds", str(options.seconds), "--threads", str(options.threads), "--blocks", str(options.blocks)
    ]  # fmt: skip
    processes = {name: start(name, arguments) for name in CONTENDERS}
    figures: dict = {"rate": RATE, "samples": samples_of(options), "threads": options.threads}
    figures["parameters"] = {name: json.loads(process.stdout.readline()) for name, process in processes.items()}
    seconds: dict = {what: {name: [] for name in processes} for what in ("round trip", "encode", "decode")}
    for turn in range(options.repeats):
        for what, found in seconds.items():
            for name, process in processes.items():
                process.stdin.write(what + "\n")
                process.stdin.flush()
                found[name].append(float(process.stdout.readline()))
        print(f"turn {turn + 1} of {options.repeats}", file=sys.stderr, flush=True)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    duration = samples_of(options) / RATE
    figures["times_real_time"] = {
        what: {name: duration / min(times) for name, times in found.items()} for what, found in seconds.items()
    }
    figures["ratio"] = {
        what: {name: float(np.median(np.divide(found["pytorch"], times))) for name, times in found.items()}
        for what, found in seconds.items()
    }
    with start("live", arguments) as process:
        found = json.loads(process.stdout.readline())
    share = np.array(found["seconds"]) / (BLOCK / RATE)
    figures["live"] = {
        "block": BLOCK, "blocks": len(share), "latency_samples": found["latency_samples"],
        "latency_ms": found["latency_ms"],
        **{f"p{q}_of_duration": float(np.percentile(share, q)) for q in (50, 95, 99, 100)},
    }  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print("times real time, and as many times PyTorch's speed (median of the turns)")
    print(f"{'':12}" + "".join(f"{name:>20}" for name in CONTENDERS))
    for what, found in figures["times_real_time"].items():
        cells = (f"{found[name]:.1f} ({figures['ratio'][what][name]:.2f})" for name in CONTENDERS)
        print(f"{what:12}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"wanted of a round trip: {TARGET:g} times")
    print("parameters: " + ", ".join(f"{name} {count / 1e6:.3f} M" for name, count in figures["parameters"].items()))
    own = figures["live"]
    print(
        f"a block of {BLOCK} samples takes {own['p50_of_duration']:.1%} of its duration (median), "
        f"{own['p99_of_duration']:.1%} (99th percentile; wanted {SHARE:.0%}), latency {own['latency_samples']} "
        f"samples, {own['latency_ms']:.1f} ms"
    )


if __name__ == "__main__":
    main()
