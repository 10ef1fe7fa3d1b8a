"""Read the size of a compressed DICOM image from the codestream's headers, without decoding."""

from __future__ import annotations

import struct
from itertools import pairwise

# Start-of-frame markers of JPEG (ITU-T T.81, table B.1, without C4, C8 and CC) and JPEG-LS (T.87).
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
SCAN = b"\xff\xda"  # start of a scan; within a scan's data every FF is followed by 00 or another marker
MOST_SCANS = 50  # a progressive JPEG has about ten; each scan takes as long as the whole image
BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
JPEG = b"\xff\xd8"
JPEG_2000 = b"\xff\x4f\xff\x51"  # start of codestream, then the image and tile size (T.800, A.5.1)
JP2 = b"\0\0\0\x0cjP  "  # the signature box of a file around a codestream (T.800, I.5.1)
MOST_CHANNELS = 4  # JPEG 2000 allows 16,384 channels, each as large as the image
RLE_HEADER = struct.Struct("<16I")  # the number of segments and their offsets (DICOM PS3.5, G.5)


def size(stream: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from the header of a JPEG, JPEG-LS or JPEG 2000 stream; None if not found.

    The first bytes decide the format, as in the decoders. A header elsewhere in the stream is ignored.

    Args:
        stream: one frame, from its first byte.
    """
    if stream.startswith(JP2):
        stream = _codestream(stream)
    if stream.startswith(JPEG_2000):
        if len(stream) < 42 or int.from_bytes(stream[40:42], "big") > MOST_CHANNELS:
            return None
        right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
        return right - left, bottom - top
    return _frame(stream) if stream.startswith(JPEG) else None


def has_too_many_scans(stream: bytes) -> bool:
    """Return whether a JPEG has more scans than any encoder writes; decoding such a small file can take minutes."""
    return stream.startswith(JPEG) and stream.count(SCAN) > MOST_SCANS


def _codestream(file: bytes) -> bytes:
    """Return the content of the first codestream box of a JP2 file, or empty bytes (T.800, I.4)."""
    place = 0
    while place + 8 <= len(file):
        length, head = int.from_bytes(file[place : place + 4], "big"), 8
        kind = file[place + 4 : place + 8]
        if length == 1:  # the length is in the next eight bytes
            length, head = int.from_bytes(file[place + 8 : place + 16], "big"), 16
        if kind == b"jp2c":
            return file[place + head :]
        if length < head:  # 0: the box extends to the end of the file, and no box follows
            break
        place += length
    return b""


def _frame(stream: bytes) -> tuple[int, int] | None:
    """Return width and height from the first start-of-frame marker of a JPEG or JPEG-LS."""
    place = 2
    while place + 9 <= len(stream):
        if stream[place] != 0xFF:
            return None
        marker = stream[place + 1]
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", stream, place + 5)
            return width, height
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in BARE:
            place += 2
        else:
            place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None


def fits(frame: bytes, most: int) -> bool:
    """Return whether an RLE frame unpacks to at most ``most`` bytes (PackBits segments; DICOM PS3.5, G.3).

    Reads only the run headers. A header without output counts as one byte, so that the loop ends.
    """
    count, *starts = RLE_HEADER.unpack_from(frame)
    for place, end in pairwise([*starts[:count], len(frame)]):
        stop = min(end, len(frame))
        while place < stop:
            header = frame[place]
            if header < 128:  # header + 1 literal bytes; padding at the end may be shorter
                most -= min(header + 1, max(stop - place - 1, 1))
                place += header + 2
            elif header > 128:  # the next byte, repeated 257 - header times
                most -= 257 - header
                place += 2
            else:
                most -= 1
                place += 1
            if most < 0:
                return False
    return True
