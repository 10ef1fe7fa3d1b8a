from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.errors import UserError
from core.images import ImageError, decode, encode, foreground, is_binary, pixel_sha256, read_image, read_mask

GREY = np.random.default_rng(0).integers(0, 256, (13, 17)).astype(np.uint8)
WHOLE = encode(GREY)


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def black(width: int, height: int, rows: int | None = None) -> bytes:
    """A valid PNG of one bit a pixel, all black; with fewer ``rows`` than its height its pixel data end early."""
    squeeze = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(squeeze.compress(row) for _ in range(height if rows is None else rows)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "depth"),
    [
        (WHOLE, 8),
        (encode(np.dstack([GREY] * 3)), 8),
        (encode(np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])), 8),
        (saved(Image.fromarray(GREY).convert("LA")), 8),
        (saved(Image.fromarray(GREY).convert("P")), 8),
    ],
    ids=["grey", "rgb", "rgba", "grey and alpha", "palette"],
)
def test_every_way_to_store_grey_gives_the_same_pixels(data: bytes, depth: int) -> None:
    pixels, header = decode(data, "x.png")
    np.testing.assert_array_equal(pixels, GREY)
    assert pixels.dtype == np.uint8
    assert (header.width, header.height, header.bit_depth) == (17, 13, depth)
    assert pixel_sha256(pixels) == pixel_sha256(GREY)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_sixteen_bits_keep_every_value(seed: int, height: int, width: int, rgb: bool) -> None:
    grey = np.random.default_rng(seed).integers(0, 65536, (height, width)).astype(np.uint16)
    pixels, header = decode(encode(np.dstack([grey] * 3) if rgb else grey), "x.png")
    np.testing.assert_array_equal(pixels, grey)
    assert pixels.dtype == np.uint16
    assert header.bit_depth == 16


def test_one_bit_is_spread_over_the_whole_range() -> None:
    pixels, header = decode(saved(Image.fromarray(GREY > 127)), "x.png")
    np.testing.assert_array_equal(pixels, np.where(GREY > 127, 255, 0))
    assert header.bit_depth == 1


@pytest.mark.parametrize("length", range(1, len(WHOLE)))
def test_a_picture_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ImageError, match=r"^chest\.png: (truncated after \d+ bytes|damaged)"):
        decode(WHOLE[:length], "chest.png")


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(place: int, change: int) -> None:
    data = bytearray(WHOLE)
    data[place] ^= change
    with pytest.raises(ImageError, match=r"^chest\.png: "):
        decode(bytes(data), "chest.png")


def test_bytes_after_the_end_mark_do_no_harm() -> None:
    np.testing.assert_array_equal(decode(WHOLE + b"\0\0", "x.png")[0], GREY)


def test_pixel_data_that_end_early_are_refused_although_every_checksum_is_right(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert decode(black(64, 64), "x.png")[0].shape == (64, 64)
    with pytest.raises(ImageError, match=r"x\.png: damaged"):
        decode(black(64, 64, rows=3), "x.png")


def test_a_decompression_bomb_is_refused_before_it_unpacks() -> None:
    bomb = black(40_000, 40_000)
    assert len(bomb) < 2_000_000
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"x\.png: 40000 x 40000 pixels are more than the 60 megapixels allowed"):
        decode(bomb, "x.png", max_pixels=60_000_000)
    assert time.monotonic() - start < 0.1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"no picture at all", "not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG"),
        (encode(np.dstack([GREY, GREY, 255 - GREY])), "colour"),
        (encode(np.dstack([GREY] * 4)), "transparent"),
        (black(64, 64).replace(struct.pack(">II", 64, 64), struct.pack(">II", 0, 64)), "damaged"),
    ],
    ids=["empty", "text", "jpeg", "colour", "transparent", "no width"],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "MCUCXR_0001_0.png"
    path.write_bytes(data)
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=what) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read \(No such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 1), (np.uint8, 255), (np.uint16, 65535), (np.uint16, 1)])
def test_masks_of_any_high_value_are_read_as_zero_and_one(tmp_path: Path, dtype: type, high: int) -> None:
    mask = np.zeros((9, 11), dtype)
    mask[2:5, 3:8] = high
    (tmp_path / "m.png").write_bytes(encode(mask))
    read = read_mask(tmp_path / "m.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, mask > 0)
    assert is_binary(mask)


def test_an_empty_mask_has_no_lung_and_three_values_are_not_binary() -> None:
    assert foreground(np.zeros((4, 4), np.uint8)).sum() == 0
    assert is_binary(np.zeros((4, 4), np.uint8))
    assert not is_binary(np.array([[0, 1, 255]], np.uint8))


def test_pixel_hashes_tell_pictures_apart() -> None:
    different = [GREY, GREY.T, GREY[::-1], GREY.astype(np.uint16), GREY.reshape(17, 13)]
    assert len({pixel_sha256(picture) for picture in different}) == len(different)


def test_opencv_and_pillow_agree_on_sixteen_bits() -> None:
    grey = (GREY.astype(np.uint16) << 8) + 7
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode(grey)))), grey)
    assert cv2.getNumThreads() == 1
