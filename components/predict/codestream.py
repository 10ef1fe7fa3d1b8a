"""How large a compressed picture inside a DICOM really is, read from its own header before anything is decoded."""

from __future__ import annotations

import struct

# Start of frame: JPEG's own (ITU-T T.81, table B.1, without C4, C8 and CC) and that of JPEG-LS (T.87).
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
JPEG_2000 = b"\xff\x4f\xff\x51"  # start of codestream, then the image and tile size (T.800, A.5.1)


def size(stream: bytes) -> tuple[int, int] | None:
    """Return the width and height, pixels, that a JPEG, JPEG-LS or JPEG 2000 stream states; None where none is found.

    Args:
        stream: one frame, from its first byte.
    """
    start = stream.find(JPEG_2000, 0, 4096)  # behind the boxes of a JP2 file, where there are any
    if start >= 0 and len(stream) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">IIII", stream, start + 8)
        return right - left, bottom - top
    place = 2
    while place + 9 <= len(stream):
        if stream[place] != 0xFF:
            return None
        marker = stream[place + 1]
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", stream, place + 5)
            return width, height
        if marker == 0xFF:  # fill
            place += 1
        elif marker in BARE:
            place += 2
        else:
            place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None
