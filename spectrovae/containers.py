"""Where the samples of an audio file lie, by its own header: WAV, RF64, BW64, W64, AIFF, AIFC, CAF and AU.

libsndfile reads what is there and says nothing of what is missing, and it gives up on chunks of an odd size that lack
their pad byte. What a header promises and what the file holds is therefore read here.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_KNOWN = (
    b"data", b"fmt ", b"LIST", b"fact", b"bext", b"iXML", b"JUNK", b"junk", b"PAD ", b"FLLR", b"guan", b"wamd", b"cue ",
    b"smpl", b"inst", b"id3 ", b"ID3 ", b"PEAK", b"ds64", b"axml", b"chna", b"afsp", b"minf", b"elm1", b"regn", b"umid",
    b"DISP", b"acid", b"plst", b"_PMX", b"SSND", b"COMM", b"MARK", b"INST", b"NAME", b"AUTH", b"ANNO", b"FVER", b"APPL",
    b"(c) ", b"COMT", b"CHAN", b"SFX!", b"levl", b"cart", b"bwfx", b"chan", b"free", b"desc", b"info",
)  # fmt: skip
_HEADS = (b"RIFF", b"RF64", b"BW64", b"RIFX", b"riff", b"FORM", b"caff", b".snd", b"dns.", b"fLaC", b"OggS")
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")  # metadata behind the samples that is no chunk
_CHUNKS = 10_000
_TAIL = 1 << 16  # bytes behind the samples that may be anything


@dataclass(frozen=True)
class Layout:
    """Where the samples are.

    Attributes:
        offset: byte of the first sample.
        promised: bytes of samples by the header; None where it states no length.
        present: bytes of samples in the file.
        subtype: libsndfile's name of the encoding, such as "PCM_16"; None unless each sample has a fixed size and the
            header is consistent.
        little: whether samples are little-endian.
        contradicts: whether the header states sizes that exclude each other: libsndfile may seek elsewhere than it
            reads.
    """

    format: str
    offset: int
    promised: int | None
    present: int
    channels: int = 0
    sample_rate: int = 0
    subtype: str | None = None
    little: bool = True
    contradicts: bool = False

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * _WIDTHS[self.subtype or "PCM_U8"]


_WIDTHS = {
    "PCM_U8": 1, "PCM_S8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
_INTEGERS = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
_FLOATS = {4: "FLOAT", 8: "DOUBLE"}


def layout(raw: BinaryIO, size: int) -> Layout | None:
    """The layout of an open file of ``size`` bytes; None for other containers, or where no samples begin."""
    raw.seek(0)
    head = raw.read(64)
    try:
        if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
            return _wav(raw, size, head)
        if head[:4] == b"riff" and head[24:28] == b"wave":
            return _w64(raw, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _aiff(raw, size)
        if head[:4] == b"caff":
            return _caf(raw, size)
        if head[:4] in (b".snd", b"dns."):
            return _au(raw, size, head)
    except (struct.error, OverflowError, ValueError):
        pass
    return None


def tag_before(raw: BinaryIO) -> int:
    """Bytes of an ID3 tag that stands before a header which has no place for one."""
    length, following = _id3(raw)
    return length if following[:4] in _HEADS else 0


def mp3_without_length(raw: BinaryIO) -> bool:
    """Whether this is an mp3 whose first frame does not state how many there are, as of a stream or a pipe."""
    following = _id3(raw)[1]
    if following[:1] != b"\xff" or following[1:2] < b"\xe0":
        return False
    places = [place for place in map(following.find, (b"Xing", b"Info")) if place > 0]
    flags = [int.from_bytes(following[at + 4 : at + 8], "big") for at in places]
    return not any(flag & 1 and any(following[at + 8 : at + 12]) for flag, at in zip(flags, places))


def _id3(raw: BinaryIO) -> tuple[int, bytes]:
    """Bytes of the ID3 tag with which a file begins, and what follows it."""
    raw.seek(0)
    head, length = raw.read(10), 0
    if head[:3] == b"ID3" and len(head) == 10:
        length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0)))
        length += 20 if head[5] & 0x10 else 10
    raw.seek(length)
    return length, raw.read(1024)


def ends_early(raw: BinaryIO, size: int) -> bool:
    """Whether this is an Ogg file that lacks its last page, which is marked as such, or a part of it."""
    raw.seek(0)
    if raw.read(4) != b"OggS":
        return False
    raw.seek(max(0, size - (1 << 17)))
    tail = raw.read()
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return True
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    return not tail[at + 5] & 4 or len(segments) < tail[at + 26] or at + 27 + len(segments) + sum(segments) > len(tail)


def flac_that_promises_less(raw: BinaryIO, size: int) -> bytes:
    """The first bytes of a flac without its number of samples, where its bytes can hold far more; else empty."""
    raw.seek(0)
    head = raw.read(26)
    if head[:4] != b"fLaC" or len(head) < 26:
        return b""
    word = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels, 5 width, 36 number of samples
    samples, channels, width = word & (1 << 36) - 1, (word >> 41 & 7) + 1, (word >> 36 & 31) + 1
    if not samples or size < 65536 + 1.1 * samples * channels * width / 8:
        return b""
    return head[:18] + (word - samples).to_bytes(8, "big")


def flac_sum(raw: BinaryIO) -> tuple[bytes, int]:
    """The MD5 sum of a flac's samples by its header, and their bits; no bytes where none is stated."""
    raw.seek(0)
    head = raw.read(42)
    bits = (int.from_bytes(head[18:26], "big") >> 36 & 31) + 1
    known = len(head) == 42 and head[:4] == b"fLaC" and any(head[26:]) and bits in (8, 16, 24)
    return (head[26:], bits) if known else (b"", 0)


def _wav(raw: BinaryIO, size: int, head: bytes) -> Layout | None:
    big = head[:4] == b"RIFX"
    order, name = ">" if big else "<", "WAV" if head[:4] in (b"RIFF", b"RIFX") else "RF64"
    fmt, long = b"", None
    for chunk, offset, length in _chunks(raw, 12, size, f"{order}I"):
        raw.seek(offset)
        if chunk == b"ds64":
            long = struct.unpack("<8xQ", raw.read(16))[0]
        elif chunk == b"fmt ":
            fmt = raw.read(min(length, 40))
        elif chunk == b"data":
            if long is not None and length == 0xFFFFFFFF:
                length = long
            return _described(_extent(raw, name, offset, length, size), fmt, order)
    return None


def _described(found: Layout, fmt: bytes, order: str) -> Layout | None:
    """With what a ``fmt`` chunk says of a sample."""
    tag, channels, rate, byte_rate, align, bits = struct.unpack(f"{order}HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:
        tag = struct.unpack(f"{order}H", fmt[24:26])[0]
    if tag not in (1, 3, 6, 7):
        return found
    width, integers = -(-bits // 8), _INTEGERS | {1: "PCM_U8"}
    subtype = {1: integers, 3: _FLOATS, 6: {1: "ALAW"}, 7: {1: "ULAW"}}[tag].get(width)
    sized = channels > 0 and width * channels == align
    return _replace(found, channels, rate, subtype if sized else None, order, not sized or byte_rate != rate * align)


def _replace(
    found: Layout, channels: int, rate: float, subtype: str | None, order: str, contradicts: bool = False
) -> Layout:
    if not 1 <= channels <= 1024:
        subtype = None
    return Layout(
        found.format, found.offset, found.promised, found.present, channels, round(rate), subtype, order == "<",
        contradicts,
    )  # fmt: skip


def _w64(raw: BinaryIO, size: int) -> Layout | None:
    position, fmt = 40, b""
    for _ in range(_CHUNKS):
        raw.seek(position)
        header = raw.read(24)
        if len(header) < 24:
            return None
        name, length = header[:4], max(24, struct.unpack("<Q", header[16:])[0])
        if name == b"fmt ":
            fmt = raw.read(40)
        elif name == b"data":
            return _described(_extent(raw, "W64", position + 24, length - 24, size), fmt, "<")
        position += length + -length % 8
    return None


def _aiff(raw: BinaryIO, size: int) -> Layout | None:
    common: tuple = ()
    for chunk, offset, length in _chunks(raw, 12, size, ">I"):
        raw.seek(offset)
        if chunk == b"COMM":
            body = raw.read(min(length, 22))
            channels, _, bits, exponent, mantissa = struct.unpack(">hIhHQ", body[:18])
            rate = math.ldexp(mantissa, (exponent & 0x7FFF) - 16446)
            common = channels, bits, rate, body[18:22] or b"NONE"
        elif chunk == b"SSND":
            skipped = 8 + struct.unpack(">I", raw.read(4))[0]
            found = _extent(raw, "AIFF", offset + skipped, max(0, length - skipped), size)
            if not common:
                return found
            channels, bits, rate, kind = common
            width = -(-bits // 8)
            subtype = {
                b"NONE": _INTEGERS.get(width), b"twos": _INTEGERS.get(width), b"sowt": _INTEGERS.get(width),
                b"in24": "PCM_24", b"in32": "PCM_32", b"fl32": "FLOAT", b"FL32": "FLOAT", b"fl64": "DOUBLE",
                b"FL64": "DOUBLE", b"ulaw": "ULAW", b"ULAW": "ULAW", b"alaw": "ALAW", b"ALAW": "ALAW",
            }.get(kind)  # fmt: skip
            return _replace(found, channels, rate, subtype, "<" if kind == b"sowt" else ">")
    return None


def _caf(raw: BinaryIO, size: int) -> Layout | None:
    position, found = 8, None
    for _ in range(_CHUNKS):
        raw.seek(position)
        header = raw.read(12)
        if len(header) < 12:
            return None
        name, length = struct.unpack(">4sq", header)
        if name == b"desc":
            rate, kind, flags, _, _, channels, bits = struct.unpack(">d4sIIIII", raw.read(32))
            subtype = (_FLOATS if flags & 1 else _INTEGERS).get(-(-bits // 8)) if kind == b"lpcm" else None
            found = channels, rate, subtype, "<" if flags & 2 else ">"
        elif name == b"data":
            promised = 0 if length < 0 else max(0, length - 4)
            extent = _extent(raw, "CAF", position + 16, promised, size)
            return _replace(extent, *found) if found else extent
        elif length < 0:
            return None
        position += 12 + length
    return None


def _au(raw: BinaryIO, size: int, head: bytes) -> Layout | None:
    order = ">" if head[:4] == b".snd" else "<"
    offset, promised, kind, rate, channels = struct.unpack(f"{order}5I", head[4:24])
    extent = _extent(raw, "AU", max(24, offset), promised, size)
    subtype = {1: "ULAW", 2: "PCM_S8", 3: "PCM_16", 4: "PCM_24", 5: "PCM_32", 6: "FLOAT", 7: "DOUBLE", 27: "ALAW"}
    return _replace(extent, channels, rate, subtype.get(kind), order, contradicts=offset < 24)


def _chunks(raw: BinaryIO, position: int, size: int, length_format: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and length of each chunk's body; one of an odd length is followed by a pad byte, or ought to be."""
    for _ in range(_CHUNKS):
        raw.seek(position)
        header = raw.read(8)
        if len(header) < 8 or not _plausible(header[:4]):
            return
        length = struct.unpack(length_format, header[4:])[0]
        yield header[:4], position + 8, length
        position += 8 + length
        if position >= size:
            return
        position = _next(raw, position, length % 2)


def _next(raw: BinaryIO, end: int, odd: int) -> int:
    """Where the chunk after one that ends at ``end`` begins, with the pad byte it should have or without."""
    places = (end + odd, end + 1 - odd)
    names = []
    for place in places:
        raw.seek(place)
        names.append(raw.read(4))
    for test in (lambda name: name in _KNOWN, _plausible):
        for place, name in zip(places, names):
            if test(name):
                return place
    return places[0]


def _plausible(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def _extent(raw: BinaryIO, format: str, offset: int, length: int, size: int) -> Layout:
    """How far the samples reach that begin at ``offset`` and have ``length`` bytes by their header."""
    there = max(0, size - offset)
    unstated = length >= (0xFFFFF000 if format in ("WAV", "AU") else 1 << 62)
    if length > there and (unstated or (format == "WAV" and 0x7FFFF000 <= length <= 0x80000000)):
        return Layout(format, offset, None, there)
    if length >= there:
        return Layout(format, offset, length, there)
    if length == 0:
        return Layout(format, offset, *(0, 0) if _chunk_at(raw, offset, size) else (None, there))
    tail = there - length
    if tail <= _TAIL and tail <= length or _metadata(raw, offset + length, size, length % 2):
        return Layout(format, offset, length, length)
    return Layout(format, offset, length, there)  # a length beyond 4 GiB has wrapped round


def _metadata(raw: BinaryIO, position: int, size: int, odd: int) -> bool:
    """Whether what follows the samples is a chunk, a tag or zeros, and so no samples."""
    raw.seek(position)
    piece = raw.read(1 << 20)
    if piece.startswith(_TAGS) or piece.count(0) == len(piece):
        return True
    return _chunk_at(raw, _next(raw, position, odd), size)


def _chunk_at(raw: BinaryIO, place: int, size: int) -> bool:
    raw.seek(place)
    header = raw.read(8)
    if header[:4] in _KNOWN:
        return True
    lengths = struct.unpack("<I", header[4:]) + struct.unpack(">I", header[4:]) if len(header) == 8 else ()
    return _plausible(header[:4]) and any(length <= size - place - 8 for length in lengths)
