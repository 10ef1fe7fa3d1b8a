"""The fast decoder: the pixels of libpng and Pillow, nothing accepted that libpng refuses, and the same messages."""

from __future__ import annotations

import io
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core import images
from core import png as fast
from core.images import ImageError, decode, pixel_sha256
from tests.core.pngs import chunk, filtered, grey, interlaced, png

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 65536, (40, 30)).astype(np.uint16)
FILTERS = RANDOM.integers(0, 5, 40).tolist()
RAW = filtered(PIXELS, FILTERS)
ROW = 61
STREAM = zlib.compress(RAW)
HEADER = (30, 40, 16, 0, 0, 0, 0)
LARGE = (np.cumsum(RANDOM.integers(-3, 4, (1050, 1000)), axis=1) + 30_000).astype(np.uint16)


def taken(data: bytes) -> np.ndarray | None:
    """What the fast decoder makes of a file, however small."""
    return fast.decode_grey(data, images._check(data, "x.png", None)[1])


def told(data: bytes, least: int) -> tuple[Any, ...]:
    """Pixels or the message, with the fast decoder for pictures of at least so many pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "LEAST_FAST", least)
        try:
            pixels, header = decode(data, "x.png")
        except ImageError as error:
            return (str(error),)
        return pixels.shape, pixels.dtype.name, pixels.tobytes(), header


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def row_filters(data: bytes) -> list[int]:
    """The filter type of each row of a grey PNG of 8 or 16 bits."""
    header, chunks = images._check(data, "x.png", None)
    raw = zlib.decompress(b"".join(data[part.start : part.end] for part in chunks if part.kind == b"IDAT"))
    return list(raw[:: 1 + header.width * header.bit_depth // 8])


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    dtype, most = draw(st.sampled_from([(np.uint8, 255), (np.uint16, 65535), (np.uint16, 4095), (np.uint8, 1)]))
    pixels = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, most + 1, (height, width)).astype(dtype)
    runs = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1)
    kinds = [kind for kind, count in draw(runs) for _ in range(count)]
    return pixels, (kinds * height)[:height]


@given(pictures(), st.integers(1, 8), st.integers(1, 8), st.lists(st.integers(0, 2000), max_size=5), st.integers(1, 9))
def test_every_filter_gives_the_pixels_of_libpng_and_pillow(
    picture: tuple[np.ndarray, list[int]], block: int, lines: int, cuts: list[int], level: int
) -> None:
    pixels, filters = picture
    stream = zlib.compress(filtered(pixels, filters), level)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parts = [stream[start:end] for start, end in pairwise(places)]  # some of them empty
    data = png((pixels.shape[1], pixels.shape[0], 8 * pixels.itemsize, 0, 0, 0, 0), parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "BLOCK", block)
        patch.setattr(fast, "LINES", lines)
        found = taken(data)
    assert found is not None
    assert found.dtype == pixels.dtype
    assert found.flags.c_contiguous
    assert found.flags.writeable
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found, opened(data))
    assert told(data, 0) == told(data, 1 << 60)
    assert pixel_sha256(found) == pixel_sha256(pixels)


@pytest.mark.parametrize("kinds", [[0], [2, 1], [0, 1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_grey_picture_needs_no_libpng(
    kinds: list[int], dtype: type[np.unsignedinteger[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = LARGE.astype(dtype)
    data = grey(large, (kinds * len(large))[: len(large)], before=[(b"tEXt", b"Title\0chest"), (b"pHYs", bytes(9))])
    expected = opened(data)
    monkeypatch.setattr(cv2, "imdecode", None)
    found, header = decode(data, "x.png")
    np.testing.assert_array_equal(found, large)
    np.testing.assert_array_equal(found, expected)
    assert (header.width, header.height, header.bit_depth) == (1000, 1050, large.itemsize * 8)


def test_a_small_picture_is_left_to_libpng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_grey", None)
    np.testing.assert_array_equal(decode(png(HEADER, [STREAM]), "x.png")[0], PIXELS)


def packed(bits: int) -> tuple[bytes, np.ndarray]:
    """A grey PNG of fewer than 8 bits, 13 pixels wide, and its pixels as 0 to 255."""
    values = RANDOM.integers(0, 2**bits, (9, 16))
    values[:, 13:] = 0
    spread = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(9, -1)
    raw = filtered(np.packbits(spread, axis=1)[:, : (13 * bits + 7) // 8], [0] * 9)
    data = png((13, 9, bits, 0, 0, 0, 0), [zlib.compress(raw)])
    return data, (values[:, :13] * (255 // (2**bits - 1))).astype(np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_bits_are_left_to_libpng(bits: int) -> None:
    data, expected = packed(bits)
    assert taken(data) is None
    assert told(data, 0) == told(data, 1 << 60)
    np.testing.assert_array_equal(decode(data, "x.png")[0], expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["grey and alpha", "rgb", "rgba", "palette", "interlaced"])
def test_other_kinds_are_left_to_libpng(kind: str, bits: int) -> None:
    plane = PIXELS if bits == 16 else (PIXELS >> 8).astype(np.uint8)
    opaque = np.full_like(plane, np.iinfo(plane.dtype).max)
    channels = {"grey and alpha": (plane, opaque), "rgb": (plane,) * 3, "rgba": (plane, plane, plane, opaque)}
    colour = {"grey and alpha": 4, "rgb": 2, "rgba": 6, "palette": 3, "interlaced": 0}[kind]
    before: list[tuple[bytes, bytes]] = []
    if kind == "interlaced":
        raw = interlaced(plane)
    elif kind == "palette":
        plane, bits = (PIXELS >> 8).astype(np.uint8), 8
        before, raw = [(b"PLTE", bytes(value for value in range(256) for _ in range(3)))], filtered(plane, FILTERS)
    else:
        raw = filtered(np.dstack(channels[kind]), FILTERS)
    data = png((30, 40, bits, colour, 0, 0, int(kind == "interlaced")), [zlib.compress(raw)], before)
    assert taken(data) is None
    assert told(data, 0) == told(data, 1 << 60)
    np.testing.assert_array_equal(decode(data, "x.png")[0], plane)


def squeezed(raw: bytes, **options: Any) -> bytes:
    squeeze = zlib.compressobj(**options)
    return squeeze.compress(raw) + squeeze.flush()


def changed(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value]) + data[place + 1 :]


UNFINISHED = zlib.compressobj()
SPLIT = png(HEADER, [STREAM[:50]])[:-12] + chunk(b"tEXt", b"a\0b") + png(HEADER, [STREAM[50:]])[33:]
DAMAGED = {
    "too few rows": png(HEADER, [zlib.compress(RAW[: ROW * 30])]),
    "one byte too few": png(HEADER, [zlib.compress(RAW[:-1])]),
    "truncated stream": png(HEADER, [STREAM[:-200]]),
    "no Adler-32": png(HEADER, [STREAM[:-4]]),
    "half an Adler-32": png(HEADER, [STREAM[:-2]]),
    "wrong Adler-32": png(HEADER, [STREAM[:-4] + bytes(4)]),
    "no final block": png(HEADER, [UNFINISHED.compress(RAW) + UNFINISHED.flush(zlib.Z_SYNC_FLUSH)]),
    "filter 5 in the first row": png(HEADER, [zlib.compress(changed(RAW, 0, 5))]),
    "filter 200": png(HEADER, [zlib.compress(changed(RAW, ROW * 20, 200))]),
    "no zlib stream": png(HEADER, [changed(STREAM, 0, 0x79)]),
    "a changed code": png(HEADER, [changed(STREAM, 300, STREAM[300] ^ 255)]),
    "preset dictionary": png(HEADER, [squeezed(RAW, zdict=b"chest")]),
    "no IDAT": png(HEADER, []),
    "only an empty IDAT": png(HEADER, [b""]),
    "IDATs apart": SPLIT,
    "unknown critical chunk": png(HEADER, [STREAM], [(b"ABCD", b"xx")]),
    "a second header": png(HEADER, [STREAM], [(b"IHDR", bytes(13))]),
    "damaged frame control": png(HEADER, [STREAM], [(b"fcTL", b"abc")]),
    "compression method 1": png((*HEADER[:4], 1, 0, 0), [STREAM]),
    "filter method 1": png((*HEADER[:4], 0, 1, 0), [STREAM]),
    "interlace method 2": png((*HEADER[:4], 0, 0, 2), [STREAM]),
    "9 bits": png((30, 40, 9, 0, 0, 0, 0), [STREAM]),
    "colour type 1": png((30, 40, 16, 1, 0, 0, 0), [STREAM]),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_refused_as_before(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert taken(DAMAGED[what]) is None
    assert told(DAMAGED[what], 0) == told(DAMAGED[what], 1 << 60)
    with pytest.raises(ImageError, match=r"^x\.png: damaged \(its pixels cannot be unpacked\); fetch it again$"):
        decode(DAMAGED[what], "x.png")


ODD = {
    "an empty IDAT first": png(HEADER, [b"", STREAM]),
    "an empty IDAT last": png(HEADER, [STREAM, b""]),
    "bytes after the stream": png(HEADER, [STREAM + b"junk"]),
    "bytes after the stream, apart": png(HEADER, [STREAM, b"junk"]),
    "too many rows": png(HEADER, [zlib.compress(RAW + RAW[: ROW * 3])]),
    "one byte too many": png(HEADER, [zlib.compress(RAW + b"x")]),
    "a small window": png(HEADER, [squeezed(RAW, wbits=9)]),
    "stored blocks": png(HEADER, [zlib.compress(RAW, 0)]),
    "a transparent grey value": png(HEADER, [STREAM], [(b"tRNS", b"\x12\x34")]),
    "a palette": png(HEADER, [STREAM], [(b"PLTE", bytes(3))]),
    "one frame of an animation": png(HEADER, [STREAM], [(b"acTL", b"\0\0\0\1\0\0\0\0")]),
    **{
        f"{kind.decode()} {len(body)}": png(HEADER, [STREAM], [(kind, body)], [(kind, body)])
        for kind in sorted(fast.HARMLESS)
        for body in (b"", b"abc", bytes(1), bytes(2), bytes(4), bytes(9), b"Title\0chest")
    },
}


@pytest.mark.parametrize("what", ODD)
def test_oddities_change_no_pixel(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(ODD[what], 0) == told(ODD[what], 1 << 60)
    np.testing.assert_array_equal(decode(ODD[what], "x.png")[0], PIXELS)


@pytest.mark.parametrize(("kind", "body"), [(b"vpAg", bytes(9)), (b"bKGD", bytes(2)), (b"bKGD", b"abc")])
def test_other_chunks_are_left_to_libpng(kind: bytes, body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    data = png(HEADER, [STREAM], [(kind, body)])
    assert taken(data) is None
    assert told(data, 0) == told(data, 1 << 60)


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255), st.booleans())
@settings(max_examples=200)
def test_a_changed_byte_under_a_right_checksum_is_judged_as_by_libpng(place: int, change: int, fixed: bool) -> None:
    stream = squeezed(RAW, level=9, strategy=zlib.Z_FIXED) if fixed else STREAM
    place %= len(stream)
    data = png(HEADER, [changed(stream, place, stream[place] ^ change)])
    assert told(data, 0) == told(data, 1 << 60)


def test_a_header_that_promises_more_than_its_stream_can_hold_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "zlib_decompress", None)  # a call would fail
    assert taken(png((30_000, 30_000, 16, 0, 0, 0, 0), [STREAM])) is None
    assert taken(png((1 << 21, 1, 8, 0, 0, 0, 0), [STREAM])) is None


def test_a_stream_that_holds_more_than_its_header_promises_is_not_unpacked_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    inflate = fast.zlib_decompress
    monkeypatch.setattr(fast, "zlib_decompress", lambda data, size: (asked.append(size), inflate(data, size))[1])
    assert taken(png(HEADER, [zlib.compress(RAW + bytes(50_000_000))])) is None
    assert asked == [len(RAW)]


def test_without_the_memory_for_it_libpng_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(fast, "zlib_decompress", full)
    monkeypatch.setattr(images, "LEAST_FAST", 0)
    np.testing.assert_array_equal(decode(png(HEADER, [STREAM]), "x.png")[0], PIXELS)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [np.ascontiguousarray(np.roll(LARGE, turn, axis=0)) for turn in range(4)]
    files = [grey(picture, [turn % 5] * len(picture)) for turn, picture in enumerate(pictures, 1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: decode(data, "x.png")[0], files * 3))
    for pixels, expected in zip(found, pictures * 3, strict=True):
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA names no folder with the paper's X-rays")
def test_real_files_give_the_pixels_of_libpng_and_pillow() -> None:
    folders: dict[Path, list[Path]] = {}
    for path in sorted(Path(os.environ["CXR_DATA"]).rglob("*.png")):
        folders.setdefault(path.parent, []).append(path)
    assert len(folders) == 5
    for paths in folders.values():
        for path in paths[:: len(paths) // 4]:
            data = path.read_bytes()
            found = taken(data)
            assert found is not None, path
            np.testing.assert_array_equal(found, opened(data), str(path))
            np.testing.assert_array_equal(found, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
