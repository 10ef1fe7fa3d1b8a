"""What becomes of every kind of file that a user may have."""

from __future__ import annotations

import io
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from core.images import ImageError, encode
from serving.xray import codestream
from serving.xray.reading import Xray, read_xray
from serving.xray.sides import mirrored
from tests.cohorts import xray
from tests.core.test_images import black
from tests.serving.dicoms import LOSSLESS, dataset, dicom, saved

# pydicom warns of each broken value that a test makes; the product ignores that by a filter that pytest takes away.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PICTURE = xray(64, 48, 0)
DEEP = xray(64, 48, 0, np.uint16) + np.arange(48, dtype=np.uint16)
MEGAPIXELS = 60.0


def read(data: bytes, name: str = "x.dcm", max_megapixels: float = MEGAPIXELS) -> Xray:
    return read_xray(data, name, max_megapixels)


def written(picture: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


# Decoding


@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS)
@pytest.mark.parametrize("pixels", [PICTURE, DEEP], ids=["8 bits", "16 bits"])
def test_every_lossless_transfer_syntax_gives_the_pixels_that_went_in(pixels: np.ndarray, syntax: str) -> None:
    found = read(dicom(pixels, syntax))
    np.testing.assert_array_equal(found.pixels, pixels)
    assert (found.pixels.dtype, found.kind) == (pixels.dtype, "dicom")
    assert found.dicom is not None
    assert found.dicom.file_meta.TransferSyntaxUID == syntax


def test_baseline_jpeg_in_a_dicom_is_close() -> None:
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 2)
    found = read(dicom(smooth, JPEGBaseline8Bit)).pixels.astype(int)
    assert np.abs(found - smooth).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pictures_are_known_by_their_content(kind: str) -> None:
    found = read(written(PICTURE, kind), "named.wrongly")
    assert (found.kind, found.spacing, found.dicom) == (kind.lower(), None, None)
    assert np.abs(found.pixels.astype(int) - PICTURE).max() <= (30 if kind == "JPEG" else 0)


def test_a_tiff_of_sixteen_bits_keeps_them_and_white_is_zero_is_turned_round() -> None:
    np.testing.assert_array_equal(read(written(DEEP, "TIFF")).pixels, DEEP)
    turned = read(written(DEEP, "TIFF", tiffinfo={262: 0})).pixels
    np.testing.assert_array_equal(turned, DEEP.max() - DEEP)


def test_a_grey_jpeg_stored_in_colour_is_grey_and_one_turned_by_its_camera_is_upright() -> None:
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 2)
    colour = read(written(np.dstack([smooth] * 3), "JPEG", quality=95)).pixels
    assert np.abs(colour.astype(int) - smooth).max() <= 6
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    turned = read(written(smooth, "JPEG", quality=95, exif=exif)).pixels
    assert np.abs(turned.astype(int) - np.rot90(smooth, -1)).max() <= 6


def test_a_dicom_without_its_file_header_is_read() -> None:
    file = io.BytesIO()
    made = dataset(PICTURE)
    del made.file_meta
    made.save_as(file, enforce_file_format=False, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read(file.getvalue()).pixels, PICTURE)


def test_a_dicom_whose_preamble_is_the_head_of_a_tiff_is_a_dicom() -> None:
    data = dicom(PICTURE)
    np.testing.assert_array_equal(read(b"II*\0" + data[4:]).pixels, PICTURE)


# From stored values to lungs that are dark


def test_monochrome1_is_turned_round_once_whatever_else_says_so() -> None:
    for says in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ):
        assert np.ptp(read(dicom(255 - PICTURE, **says)).pixels.astype(int) - PICTURE) == 0
    np.testing.assert_array_equal(read(dicom(PICTURE, PresentationLUTShape="IDENTITY")).pixels, PICTURE)


def test_rescale_and_window_are_those_of_the_standard() -> None:
    stored = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    plain = read(dicom(stored, RescaleSlope=2, RescaleIntercept=-100)).pixels
    np.testing.assert_allclose(plain, stored * 2.0 - 100)
    assert plain.dtype == np.float32
    window = {"WindowCenter": 1000, "WindowWidth": 401}
    linear = read(dicom(stored, **window)).pixels
    assert (linear[stored <= 799] == 0).all()
    assert (linear[stored > 1199] == 65535).all()
    np.testing.assert_allclose(linear[stored == 1000], ((1000 - 999.5) / 400 + 0.5) * 65535, rtol=1e-6)
    exact = read(dicom(stored, **window, VOILUTFunction="LINEAR_EXACT")).pixels
    np.testing.assert_allclose(exact[stored == 1000], 0.5 * 65535, rtol=1e-6)
    sigmoid = read(dicom(stored, **window, VOILUTFunction="SIGMOID")).pixels
    np.testing.assert_allclose(sigmoid[stored == 1100], 65535 / (1 + np.exp(-400 / 401)), rtol=1e-5)
    first = read(dicom(stored, WindowCenter=[1000, 5], WindowWidth=[401, 2])).pixels
    np.testing.assert_array_equal(first, linear)


def test_a_window_that_no_viewer_could_apply_is_passed_over() -> None:
    np.testing.assert_array_equal(read(dicom(PICTURE, WindowCenter=5, WindowWidth=0)).pixels, PICTURE)


@pytest.mark.parametrize("slope", [None, 2.0])
def test_a_lookup_table_goes_before_a_window(slope: float | None) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [1024, 0, 16])
    table.add_new("LUTData", "OW", (np.arange(1024, dtype=np.uint16)[::-1] * 3).tobytes())
    says = {"RescaleSlope": slope, "RescaleIntercept": 0.0} if slope else {}
    found = read(dicom(PICTURE, VOILUTSequence=Sequence([table]), WindowCenter=7, WindowWidth=2, **says)).pixels
    np.testing.assert_array_equal(found, (1023 - PICTURE.astype(int) * int(slope or 1)) * 3)


def test_signed_values_and_padding_end_up_with_the_border_dark() -> None:
    signed = PICTURE.astype(np.int16) - 120
    np.testing.assert_array_equal(read(dicom(signed)).pixels, signed)
    framed = PICTURE.copy()
    framed[:8] = 0  # stored as 0 whatever the polarity: bright, were it turned round with the rest
    found = read(dicom(255 - framed, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=255)).pixels.astype(int)
    assert (found[:8] == found[8:].min()).all()
    assert np.ptp(found[8:] - framed[8:].astype(int)) == 0


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ({"PixelSpacing": [2, 1.5]}, (2, 1.5)),
        ({"ImagerPixelSpacing": [3, 3]}, (3, 3)),
        ({"ImagerPixelSpacing": [3, 3], "EstimatedRadiographicMagnificationFactor": 1.5}, (2, 2)),
        ({"ImagerPixelSpacing": [3, 3], "PixelSpacing": [2, 2]}, (2, 2)),
        ({"PixelSpacing": [0, 2]}, None),
        ({"PixelSpacing": [1000, 1000]}, None),
        ({"PixelSpacing": [0.001, 0.001]}, None),
        ({}, None),
    ],
)
def test_the_spacing_is_believed_where_it_makes_sense(says: dict, expected: tuple[float, float] | None) -> None:
    assert read(dicom(PICTURE, **says)).spacing == (None if expected is None else pytest.approx(expected))


# What is refused, each in one line


def encapsulated_pdf() -> bytes:
    made = dataset(None, SOPClassUID=EncapsulatedPDFStorage, Modality="DOC")
    made.EncapsulatedDocument = b"%PDF-1.4 "
    return saved(made)


def holding(stream: bytes, syntax: UID = JPEGBaseline8Bit) -> bytes:
    """A DICOM that says it has 48 x 64 pixels, around a compressed picture that may be another."""
    made = dataset(PICTURE)
    made.PixelData = pydicom.encaps.encapsulate([stream])
    made.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def commented(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def boxed(jp2: bytes, content: bytes, *, long: bool = False) -> bytes:
    """A JP2 file with a free box before its header and codestream."""
    size = len(content) + (16 if long else 8)
    head = b"\0\0\0\1free" + size.to_bytes(8, "big") if long else size.to_bytes(4, "big") + b"free"
    place = jp2.index(b"jp2h") - 4
    return jp2[:place] + head + content + jp2[place:]


def preambled(deflated: bytes, between: bytes) -> bytes:
    """A deflated DICOM with bytes between its file header and its data set."""
    end = 144 + int.from_bytes(deflated[140:144], "little")
    return deflated[:end] + between + deflated[end:]


LARGE = xray(640, 480, 0)
JP2 = written(PICTURE, "JPEG2000")
J2K = JP2[JP2.index(b"\xff\x4f\xff\x51") :]
LARGE_JP2 = written(LARGE, "JPEG2000")
# One segment of runs of 128 bytes.
RLE_BOMB = np.array([1, 64, *[0] * 14], "<u4").tobytes() + b"\x81\x07" * 10_000
PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
WHOLE = dicom(PICTURE)
BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello", "not a PNG, JPEG, TIFF or DICOM file"),
    "a PDF": (b"%PDF-1.7 ...", "a PDF document"),
    "a PDF in a DICOM": (encapsulated_pdf(), "a PDF document inside a DICOM"),
    "a photograph as PNG": (encode(PHOTOGRAPH), "a colour image"),
    "a photograph as JPEG": (written(PHOTOGRAPH, "JPEG"), "a colour image"),
    "a photograph as TIFF": (written(PHOTOGRAPH, "TIFF"), "a colour image"),
    "a photograph as DICOM": (dicom(PHOTOGRAPH), "a colour image"),
    "a palette": (dicom(PICTURE, PhotometricInterpretation="PALETTE COLOR"), "a PALETTE COLOR image"),
    "all black": (encode(np.zeros((64, 64), np.uint8)), "same grey value"),
    "all black as DICOM": (dicom(np.zeros((64, 64), np.uint16)), "same grey value"),
    "one pixel": (encode(np.full((1, 1), 7, np.uint8)), "1 x 1 pixels are too few"),
    "one pixel as DICOM": (dicom(np.full((1, 1), 7, np.uint8)), "1 x 1 pixels are too few"),
    "a thin strip": (written(np.arange(600, dtype=np.uint8).reshape(2, 300), "JPEG"), "300 x 2 pixels are too few"),
    "30,000 a side as PNG": (black(30_000, 30_000), "30000 x 30000 pixels are more than the 60 megapixels"),
    "30,000 a side as DICOM": (dicom(PICTURE, Rows=30_000, Columns=30_000), "30000 x 30000 pixels are more than"),
    "a larger picture inside": (holding(written(LARGE, "JPEG")), "its compressed image says 480 x 640"),
    "a larger one behind a size in a comment": (
        holding(commented(written(LARGE, "JPEG"), J2K[:60])),
        "its compressed image says 480 x 640",
    ),
    "a larger one far back": (
        holding(boxed(LARGE_JP2, bytes(5000)), JPEG2000Lossless),
        "its compressed image says 480 x 640",
    ),
    "a larger one behind a size in a box": (
        holding(boxed(LARGE_JP2, J2K[:60]), JPEG2000Lossless),
        "its compressed image says 480 x 640",
    ),
    "thousands of channels": (
        holding(J2K[:40] + b"\x40\0" + J2K[42:], JPEG2000Lossless),
        "its compressed image does not say how large it is",
    ),
    "another picture inside": (holding(encode(PICTURE)), "its compressed image does not say how large it is"),
    "RLE of more than the picture": (holding(RLE_BOMB, RLELossless), "its compressed image unpacks to more"),
    "no pixel data": (dicom(None), "without pixel data"),
    "empty pixel data": (dicom(PICTURE, PixelData=b""), "without pixel data"),
    "several frames": (dicom(PICTURE, NumberOfFrames=3), "holds 3 frames"),
    "several pictures": (
        written(PICTURE, "TIFF", save_all=True, append_images=[Image.fromarray(PICTURE)]),
        "holds several images",
    ),
    "a CT slice": (dicom(DEEP, SOPClassUID=CTImageStorage, Modality="CT"), "CT Image Storage, modality CT"),
    "ultrasound": (dicom(PICTURE, Modality="US"), "modality US"),
    "no kind": (dicom(PICTURE, SOPClassUID=None), "no SOP Class UID"),
    "no rows": (dicom(PICTURE, Rows=None), "does not describe its pixels"),
    "too many pixels": (dicom(PICTURE, Rows=32), "do not make one image of 48 x 32"),
    "too few pixels": (dicom(PICTURE, Rows=640), "cannot be decoded"),
    "a truncated DICOM": (WHOLE[:-500], "damaged or cut short"),
    "a DICOM cut in its header": (WHOLE[:140], "damaged or cut short"),
    "a truncated JPEG": (written(PICTURE, "JPEG")[:-200], "damaged or cut short"),
    "a truncated TIFF": (written(PICTURE, "TIFF")[:-200], "damaged or cut short"),
    "a truncated RLE": (dicom(PICTURE, RLELossless)[:-300], "damaged or cut short"),
    "a truncated JPEG-LS": (dicom(PICTURE, JPEGLSLossless)[:-600], "damaged or cut short"),
    "an unknown compression": (
        dicom(PICTURE, HTJ2KLossless),
        "compressed (High-Throughput JPEG 2000 Image Compression (Lossless Only)), which cannot be read here; export",
    ),
}
# Values that a library's own words, or a line that repeats them, would carry out of the file.
ODD = {
    "frames": (
        b"\x08\0IS\x02\x001 ",
        b"\x08\0IS\x02\x00\x1b\n",
        "damaged or cut short: it does not describe its pixels; export it",
    ),
    "modality": (b"CS\x02\x00DX", b"CS\x02\x00\n\xff", ", modality UNKNOWN; remove it"),
    "photometric": (b"MONOCHROME2", b"Doe^Jane\n\x1bX", "a UNKNOWN image, not a grey X-ray"),
    "kind": (
        b"1.2.840.10008.5.1.4.1.1.1.1\0\x08",
        b"1.2.840.10008.5.1.Doe^Jane.\0\x08",
        "not a chest X-ray but of an unknown kind, modality DX; remove it",
    ),
}


@pytest.mark.parametrize(("data", "what"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_told_in_one_line(data: bytes, what: str) -> None:
    start = time.monotonic()
    with pytest.raises(ImageError) as caught:
        read(data, "folder/chest.dcm")
    message = str(caught.value)
    assert message.startswith("folder/chest.dcm: "), message
    assert what in message
    assert "\n" not in message
    assert time.monotonic() - start < 30  # nothing of 30,000 x 30,000 pixels was unpacked


@pytest.mark.parametrize(("right", "wrong", "what"), ODD.values(), ids=ODD)
def test_what_a_damaged_file_says_is_not_repeated(right: bytes, wrong: bytes, what: str) -> None:
    sound = dicom(PICTURE, NumberOfFrames=1)
    assert sound.count(right) == 1
    assert len(right) == len(wrong)
    with pytest.raises(ImageError) as caught:
        read(sound.replace(right, wrong))
    message = str(caught.value)
    assert what in message
    assert message.isascii()
    assert message.isprintable()
    assert "Doe" not in message


@pytest.mark.parametrize(
    "element",
    [b"\x08\0\x60\0CS", b"\x20\0\x20\0CS", b"\x18\0\x01\x51CS", b"\x10\0\x10\0PN"],
    ids=["Modality", "PatientOrientation", "ViewPosition", "PatientName"],
)
def test_an_element_that_cannot_be_read_is_as_good_as_none(element: bytes) -> None:
    sound = dicom(PICTURE, PatientOrientation=["L", "F"], ViewPosition="PA")
    assert sound.count(element) == 1
    found = read(sound.replace(element, element[:-1] + b"!"))
    np.testing.assert_array_equal(found.pixels, PICTURE)
    assert mirrored(found.dicom) is False


@pytest.mark.parametrize(
    ("between", "preamble", "what"),
    [
        (b"", True, "unpacks to more than 1 megapixels need; remove it"),
        (b"", False, "unpacks to more than 1 megapixels need; remove it"),
        # A command set, which pydicom passes over before it unpacks.
        (bytes(4) + b"\4\0\0\0" + bytes(4), True, "damaged: network commands precede"),
    ],
)
def test_a_deflated_bomb_is_refused_before_it_has_unpacked(between: bytes, preamble: bool, what: str) -> None:
    bomb = preambled(dicom(PICTURE, DeflatedExplicitVRLittleEndian, PixelData=bytes(30_000_000)), between)
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match=rf"^x\.dcm: {what}"):
        read(bomb if preamble else bomb[132:], max_megapixels=1)


def test_a_jpeg_extended_of_12_bits_is_read() -> None:
    y, x = np.mgrid[:96, :128]
    pixels = ((np.sin(x / 20) + np.cos(y / 15) + 2) * 1000).astype(np.uint16)
    found = read(dicom(pixels, JPEGExtended12Bit, BitsStored=12, HighBit=11)).pixels
    np.testing.assert_allclose(found.astype(float), pixels.astype(float), atol=4)


def test_a_deflated_dicom_without_a_preamble_is_read() -> None:
    np.testing.assert_array_equal(read(dicom(PICTURE, DeflatedExplicitVRLittleEndian)[132:]).pixels, PICTURE)


def test_a_tiff_is_not_walked_through_to_count_its_pictures() -> None:
    data = bytearray(written(PICTURE, "TIFF", save_all=True, append_images=[Image.fromarray(PICTURE)]))
    link = 4
    for _ in range(2):  # to where the second directory says where a third one is
        link = int.from_bytes(data[link : link + 4], "little")
        link += 2 + 12 * int.from_bytes(data[link : link + 2], "little")
    # The third is no directory: whoever goes on to it stumbles.
    data[link : link + 4] = (len(data) - 1).to_bytes(4, "little")
    with pytest.raises(ImageError, match="holds several images"):
        read(bytes(data))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "rtplan.dcm", "test-SR.dcm"])
def test_other_dicoms_are_named_by_what_they_are(name: str) -> None:
    path = get_testdata_file(name, download=False)
    with pytest.raises(ImageError, match=r"not a chest X-ray but .*, modality (CT|MR|NM|RTPLAN|SR)"):
        read(Path(str(path)).read_bytes())


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", bytes(128) + b"DICM"]),
)
def test_no_bytes_at_all_lead_to_anything_but_one_line(tail: bytes, head: bytes) -> None:
    with pytest.raises(ImageError, match=r"^x: [^\n]*$"):
        read(head + tail, "x")


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@example(WHOLE.index(b"\xe0\x7f\x10\x00") + 4, 1)  # the pixels' value representation
def test_a_changed_byte_in_a_dicom_gives_an_xray_or_one_line(place: int, change: int) -> None:
    data = bytearray(WHOLE)
    data[place] ^= change
    message = ""
    try:
        found = read(bytes(data))
        assert found.pixels.ndim == 2
        assert mirrored(found.dicom) in (True, False, None)
    except ImageError as error:
        message = str(error)
    assert message.isascii()
    assert not message or message.isprintable()


def test_the_size_in_a_compressed_stream_is_found() -> None:
    assert codestream.size(written(PICTURE, "JPEG")) == (48, 64)
    for syntax in (JPEGLSLossless, JPEG2000Lossless, LOSSLESS["JPEG lossless"]):
        made = pydicom.dcmread(io.BytesIO(dicom(DEEP, syntax)))
        assert codestream.size(pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)) == (48, 64)
    assert codestream.size(J2K) == codestream.size(boxed(JP2, bytes(5000), long=True)) == (48, 64)
    assert codestream.size(JP2[: JP2.index(b"jp2c")]) is None
    assert codestream.size(b"") is None
    assert codestream.size(b"\xff\xd8 no marker") is None


@pytest.mark.parametrize("stream", [JP2, boxed(JP2, bytes(5000)), J2K], ids=["JP2", "JP2 with a free box", "bare"])
def test_jpeg_2000_is_read_in_its_boxes_and_without(stream: bytes) -> None:
    np.testing.assert_array_equal(read(holding(stream, JPEG2000Lossless)).pixels, PICTURE)


@pytest.mark.parametrize("pixels", [PICTURE, DEEP, np.zeros((64, 48), np.uint16)], ids=["8 bits", "16 bits", "runs"])
def test_what_an_rle_frame_unpacks_to_is_known_from_its_headers(pixels: np.ndarray) -> None:
    made = pydicom.dcmread(io.BytesIO(dicom(pixels, RLELossless)))
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    padding = pixels.itemsize  # a byte makes each segment even
    assert codestream.fits(frame, pixels.nbytes + padding)
    assert not codestream.fits(frame, pixels.nbytes - 1)
    assert not codestream.fits(frame[:64] + b"\x80" * 1000, 999)  # headers that stand for nothing
