"""Audio files as recorders, pipes, old disks and interrupted copies leave them, with the samples that are in them.

Samples are made by hand from integers, so that the right answer is no decoder's. All are at 8 kHz.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile

RATE = 8000
LENGTH = 1601


@dataclass(frozen=True)
class Case:
    """A file, and its samples, or a part of its note, or of the error it gives."""

    name: str
    content: bytes
    samples: np.ndarray | None = None
    note: str | None = None
    error: str | None = None


def integers(bits: int = 16, channels: int = 1, samples: int = LENGTH, seed: int = 0) -> np.ndarray:
    """Whole numbers of half the range [shape=(samples, channels)]."""
    limit = 2 ** (bits - 2)
    noise = np.random.default_rng(seed).integers(-limit, limit, (samples, channels))
    return (noise + limit // 2 * np.sin(np.arange(samples) / 9)[:, None]).astype(np.int64)


def mono(numbers: np.ndarray, bits: int = 16) -> np.ndarray:
    waveform = (numbers / 2.0 ** (bits - 1)).astype(np.float32).T
    return waveform[0] if len(waveform) == 1 else waveform.mean(axis=0, dtype=np.float32)


def packed(numbers: np.ndarray, bits: int = 16, big: bool = False) -> bytes:
    numbers = numbers.ravel() + (128 if bits == 8 else 0)
    width, order = bits // 8, "big" if big else "little"
    return b"".join(int(number).to_bytes(width, order, signed=bits > 8) for number in numbers)


def chunk(name: bytes, body: bytes, pad: bool = True, length: int | None = None, order: str = "<") -> bytes:
    size = len(body) if length is None else length
    return name + struct.pack(f"{order}I", size) + body + b"\0" * (pad and len(body) % 2)


def fmt(bits: int = 16, channels: int = 1, tag: int = 1, extra: bytes = b"", order: str = "<") -> bytes:
    align = channels * bits // 8
    body = struct.pack(f"{order}HHIIHH", tag, channels, RATE, RATE * align, align, bits)
    return chunk(b"fmt ", body + extra, order=order)


def riff(*chunks: bytes, size: int | None = None, name: bytes = b"RIFF", order: str = "<") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return name + struct.pack(f"{order}I", len(body) if size is None else size) + body


def written(numbers: np.ndarray, format: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    sound = numbers / 2.0**15 if subtype in ("FLOAT", "DOUBLE") else numbers.astype(np.int16)
    soundfile.write(file, sound, rate, format=format, subtype=subtype)
    return file.getvalue()


def odd_chunks() -> Iterator[Case]:
    numbers = integers()
    data, expected = chunk(b"data", packed(numbers)), mono(numbers)
    for name in (b"guan", b"iXML", b"wamd", b"bext", b"LIST", b"JUNK", b"xyzw", b"id3 "):
        for length in (0, 1, 7, 602):
            for pad in (True, False):
                extra = chunk(name, b"GUANO|Version: 1.0\n"[:length].ljust(length, b"x"), pad)
                label = f"{name.decode().strip()}_{length}_{pad}"
                yield Case(f"before_{label}.wav", riff(fmt(), extra, data), expected)
                yield Case(f"first_{label}.wav", riff(extra, fmt(), data), expected)
                yield Case(f"after_{label}.wav", riff(fmt(), data, extra), expected)
                yield Case(f"two_{label}.wav", riff(fmt(), extra, extra, data, extra, extra), expected)
    yield Case("tag.wav", riff(fmt(), data) + b"TAG" + b"a" * 125, expected)
    yield Case("zeros.wav", riff(fmt(), data) + bytes(200_000), expected)
    yield Case("few.wav", riff(fmt(), data) + b"\1\2\3", expected)


def odd_sizes() -> Iterator[Case]:
    guid = bytes.fromhex("000000001000800000aa00389b71")
    for bits in (8, 16, 24, 32):
        for channels in (1, 2, 3):
            for samples in (LENGTH, LENGTH - 1):
                for pad in (True, False):
                    numbers = integers(bits, channels, samples)
                    data = chunk(b"data", packed(numbers, bits), pad)
                    label = f"{bits}_{channels}_{samples}_{pad}.wav"
                    yield Case(label, riff(fmt(bits, channels), data), mono(numbers, bits))
                    extra = struct.pack("<HHIH", 22, bits, 0, 1) + guid
                    header = fmt(bits, channels, 0xFFFE, extra)
                    yield Case(f"ex_{label}", riff(header, data), mono(numbers, bits))
                    yield Case(
                        f"list_{label}", riff(fmt(bits, channels), data, chunk(b"LIST", b"INFO")), mono(numbers, bits)
                    )
    big = integers()
    content = riff(
        fmt(order=">"), chunk(b"data", packed(big, big=True), order=">"), name=b"RIFX", order=">"
    )  # fmt: skip
    yield Case("rifx.wav", content, mono(big))


def lengths() -> Iterator[Case]:
    for bits, channels in ((16, 1), (24, 1), (8, 2), (32, 2)):
        numbers = integers(bits, channels)
        body, expected, header = packed(numbers, bits), mono(numbers, bits), fmt(bits, channels)
        for length in (0, 0xFFFFFFFF, 0xFFFFFFF0, 0xFFFFF000, 0x7FFFFFFF, 0x80000000, 0x7FFFF000, 0x7FFFFFD8):
            for size in (0, 0xFFFFFFFF, None):
                content = riff(header, chunk(b"data", body, length=length), size=size)
                yield Case(f"piped_{bits}_{length:x}_{size}.wav", content, expected, "states no length")
        for length in (16 * channels, 48 * channels, 240 * channels):
            content = riff(header, chunk(b"data", body, length=length))
            yield Case(f"wrapped_{bits}_{length}.wav", content, expected, "are there and read")
        for name in (b"RF64", b"BW64"):
            for long in (len(body), 0, 2**64 - 1):
                sizes = chunk(b"ds64", struct.pack("<QQQI", 0, long, len(numbers), 0))
                data = chunk(b"data", body, length=0xFFFFFFFF)
                content = riff(sizes, header, data, size=0xFFFFFFFF, name=name)
                note = None if long == len(body) else "states no length"
                yield Case(f"{name.decode()}_{bits}_{long:x}.rf64", content, expected, note)


def flacs() -> Iterator[Case]:
    for samples in (1, 100, 4095, 4096, 4097, 9000):
        for channels in (1, 2):
            numbers = integers(16, channels, samples)
            content = bytearray(written(numbers, "FLAC"))
            expected = mono(numbers)
            yield Case(f"plain_{samples}_{channels}.flac", bytes(content), expected)
            deep = written(numbers, "FLAC", "PCM_24")
            yield Case(f"deep_{samples}_{channels}.flac", deep, expected)
            yield Case(f"tag_{samples}_{channels}.flac", bytes(content) + b"TAG" + bytes(125), expected)
            yield Case(f"id3_{samples}_{channels}.flac", b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + content, expected)
            if samples > 99:
                fewer = content[:22] + struct.pack(">I", samples - 7) + content[26:]
                yield Case(f"fewer_{samples}_{channels}.flac", bytes(fewer), expected[:-7], "MD5 sum")
                wrong = content[:30] + bytes([content[30] ^ 1]) + content[31:]
                yield Case(f"wrong_{samples}_{channels}.flac", bytes(wrong), expected, "MD5 sum")
            content[21] &= 0xF0  # the number of samples: 36 bits
            content[22:26] = bytes(4)
            yield Case(f"piped_{samples}_{channels}.flac", bytes(content), expected, "states no length")
            content[22:26] = struct.pack(">I", samples + 1 + samples // 50)
            yield Case(f"more_{samples}_{channels}.flac", bytes(content), expected, "% of it is there")


def containers() -> Iterator[Case]:
    numbers = integers()
    for format, suffixes in (
        ("WAV", ("wav", "wave", "WAV")), ("AIFF", ("aif", "aiff", "aifc")), ("W64", ("w64",)),
        ("RF64", ("rf64", "wav")), ("CAF", ("caf",)), ("AU", ("au", "snd")), ("FLAC", ("flac",)), ("WAVEX", ("wav",)),
    ):  # fmt: skip
        for suffix in suffixes:
            yield Case(f"{format}_16.{suffix}", written(numbers, format), mono(numbers))
            yield Case(f"{format}_24.{suffix}", written(numbers, format, "PCM_24"), mono(numbers))
        if format != "FLAC":
            for subtype in ("FLOAT", "DOUBLE", "ULAW"):
                content = written(numbers, format, subtype)
                yield Case(f"{format}_{subtype}.{suffixes[0]}", content, decoded(content))
    long = integers(16, 1, 24000)
    for name, content in lossy(long).items():
        yield Case(name, content, decoded(content))
    mp3 = written(long, "MP3")
    yield Case("id3v2.mp3", b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + mp3, decoded(mp3))
    yield Case("id3v1.mp3", mp3 + b"TAG" + bytes(125), decoded(mp3))


def lossy(numbers: np.ndarray) -> dict[str, bytes]:
    return {
        "a.ogg": written(numbers, "OGG", "VORBIS"), "a.oga": written(numbers, "OGG", "VORBIS"),
        "a.opus": written(numbers, "OGG", "OPUS"), "a.mp3": written(numbers, "MP3"),
        "adpcm.wav": written(numbers, "WAV", "IMA_ADPCM"), "gsm.wav": written(numbers, "WAV", "GSM610"),
    }  # fmt: skip


def decoded(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0][:, 0]


def envelopes() -> Iterator[Case]:
    """Tags before headers, gaps before samples, wrong byte rates and lengths, and several streams in one file."""
    numbers, tag = integers(), b"ID3\4\0\0\0\0\1\0" + bytes(128)
    expected, body = mono(numbers), packed(numbers)
    for format in ("WAV", "AIFF", "W64", "RF64", "CAF", "AU", "FLAC", "WAVEX"):
        content, suffix = written(numbers, format), "wav" if format == "WAVEX" else format.lower()
        yield Case(f"id3_{format}.{suffix}", tag + content, expected)
    yield Case("id3_cut.wav", tag + riff(fmt(), chunk(b"data", body))[: 44 + 2 * 1200], expected[:1200], "75 %")
    yield Case("id3_cut.aiff", tag + written(numbers, "AIFF")[: 54 + 2 * 400], error="less than half")
    long = lossy(integers(16, 1, 24000))
    for name in ("a.ogg", "a.opus"):
        yield Case(f"id3_{name}", tag + long[name], decoded(long[name]))
    for gap in (4, 8, 512):
        for tail in (b"", chunk(b"NAME", b"a name of a sound", order=">")):
            common = chunk(b"COMM", written(numbers, "AIFF")[20:38], order=">")
            sound = chunk(b"SSND", struct.pack(">II", gap, 0) + b"\7" * gap + packed(numbers, big=True), order=">")
            chunks = b"AIFF" + common + sound + tail
            yield Case(f"gap_{gap}_{len(tail)}.aiff", b"FORM" + struct.pack(">I", len(chunks)) + chunks, expected)
    for rate in (0, RATE, 2**32 - 1):
        header = fmt()[:16] + struct.pack("<I", rate) + fmt()[20:]
        odd = chunk(b"guan", b"abc", pad=False)
        for label, chunks, note in (
            ("plain", header + chunk(b"data", body), ""), ("odd", header + odd + chunk(b"data", body), ""),
            ("piped", header + chunk(b"data", body, length=0), "states no length"),
        ):  # fmt: skip
            yield Case(f"byte_rate_{rate}_{label}.wav", riff(chunks), expected, note or "contradicts itself")
    content = written(numbers, "AU")
    yield Case("less.au", content[:8] + struct.pack(">I", 100) + content[12:], expected, "1601 are there and read")
    yield Case("offset.au", content[:4] + struct.pack(">I", 4) + content[8:], expected, "contradicts itself")
    for name, first in {**long, "a.flac": written(integers(16, 1, 24000), "FLAC")}.items():
        if not name.endswith(".wav"):
            samples = None if name == "a.opus" else decoded(first)
            yield Case(f"two_{name}", first + first, samples, "of its bytes are not decoded")


def cuts() -> Iterator[Case]:
    numbers = integers(16, 1, 30000)
    for format in ("WAV", "WAVEX", "AIFF", "W64", "RF64", "CAF", "AU"):
        content = written(numbers, format)
        offset = content.rfind(packed(numbers[:8], big=format in ("AIFF", "AU", "CAF")))
        offset = offset if offset > 0 else content.find(packed(numbers[:8], big=format != "CAF"))
        for share in (55, 80, 97):
            kept = content[: offset + 2 * (300 * share) + share % 2]
            suffix = format.lower() if format != "WAVEX" else "wav"
            yield Case(f"{format}_{share}.{suffix}", kept, mono(numbers)[: 300 * share], f"{share}")
        yield Case(f"{format}_40.{suffix}", content[: offset + 24000], error="less than half")
    content = written(numbers, "FLAC")
    for share in (60, 80, 97):
        samples = mono(numbers)[: 30000 * share // 100 // 4096 * 4096]
        kept = content[: len(content) * share // 100]
        yield Case(f"flac_{share}.flac", kept, samples, "% of it is there")
    for format, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS")):
        content = written(integers(16, 1, 240_000), format, subtype)
        for share in (60, 80, 97):
            yield Case(f"{subtype}_{share}.ogg", content[: len(content) * share // 100], note="last page is missing")


def rates() -> Iterator[Case]:
    for rate in (0, 1, 2, 100, 999, 768_001, 2**24, 2**29, 2**31 - 1, 2**31, 2**32 - 1):
        content = riff(fmt(), chunk(b"data", packed(integers())))
        content = content[:24] + struct.pack("<II", rate, 2 * rate % 2**32) + content[32:]
        yield Case(f"{rate}.wav", content, error="Hz|not readable")


def junk() -> Iterator[Case]:
    yield Case("zeros_after_riff.wav", b"RIFF" + bytes(5_000_000), error="not readable")
    yield Case("zeros_after_wave.wav", riff(bytes(5_000_000)), error="not readable")
    yield Case("tiny_chunks.wav", riff(chunk(b"JUNK", b"") * 500_000), error="not readable")
    yield Case("empty.wav", b"", error="is empty")
    yield Case("text.flac", b"these are notes\n" * 99, error="not readable")
    yield Case("none.wav", riff(fmt(), chunk(b"data", b"")), error="no samples")
    yield Case("none_then_list.wav", riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"INFO")), error="no samples")
    yield Case("loop.w64", written(integers(), "W64")[:40] + bytes(100_000), error="not readable|malformed")
    yield Case("short.aiff", written(integers(), "AIFF")[:50], error="less than half|no samples|not readable")
    yield Case("header.au", written(integers(), "AU")[:24], error="no samples|not readable|less than half")
    yield Case("short.caf", written(integers(), "CAF")[:70], error="no samples|not readable")
    yield Case("short.ogg", written(integers(), "OGG", "VORBIS")[:300], error="no samples|not readable")
    file = io.BytesIO()
    soundfile.write(file, np.full((400, 4), 3e38, np.float32), RATE, format="WAV", subtype="FLOAT")
    yield Case("absurd.wav", file.getvalue(), error="which is no sound")
    channels = bytearray(riff(fmt(), chunk(b"data", packed(integers()))))
    channels[22:24] = struct.pack("<H", 65535)
    yield Case("channels.wav", bytes(channels), error="not readable")


KINDS = {
    function.__name__: function
    for function in (odd_chunks, odd_sizes, lengths, flacs, containers, envelopes, cuts, rates, junk)
}  # fmt: skip


def mutations(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Name and content of files with one to four bytes changed, most of them in the header, or a stretch cut out."""
    numbers = integers()
    bases = {
        "a.wav": written(numbers, "WAV"), "b.wav": written(numbers, "WAV", "PCM_24"),
        "c.wav": written(numbers, "WAV", "FLOAT"), "d.flac": written(numbers, "FLAC"),
        "e.aiff": written(numbers, "AIFF"), "f.ogg": written(numbers, "OGG", "VORBIS"),
        "g.mp3": written(numbers, "MP3"), "h.w64": written(numbers, "W64"), "i.caf": written(numbers, "CAF"),
        "j.au": written(numbers, "AU"), "k.opus": written(numbers, "OGG", "OPUS"), "l.rf64": written(numbers, "RF64"),
    }  # fmt: skip
    random = np.random.default_rng(seed)
    names = list(bases)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray(bases[name])
        for _ in range(random.integers(1, 5)):
            reach = 100 if random.random() < 0.7 else len(content)
            content[random.integers(min(reach, len(content)))] = random.integers(256)
        if random.random() < 0.15:
            begin = random.integers(len(content))
            del content[begin : begin + random.integers(1, 400)]
        yield f"{number:05d}_{name}", bytes(content)
