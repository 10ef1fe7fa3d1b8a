"""DICOMs made here: any pixels in any transfer syntax, with whatever a test wants them to say."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gdcm
import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

LOSSLESS = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
BY_GDCM = {
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    JPEGExtended12Bit: gdcm.TransferSyntax.JPEGExtendedProcess2_4,  # of 12 bits; Pillow writes those of 8
}


def dataset(pixels: np.ndarray | None, **says: Any) -> Dataset:
    """A digital X-ray of ``pixels``, unsigned or signed (H, W) or RGB (H, W, 3); ``None`` as a value leaves it out."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = DigitalXRayImageStorageForPresentation
    made.SOPInstanceUID = generate_uid(entropy_srcs=[repr(says), "" if pixels is None else pixels.tobytes().hex()])
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.Modality, made.PatientName, made.PatientID = "DX", "Doe^Jane", "SECRET-7"
    made.PatientBirthDate, made.PatientSex, made.StudyID = "19700101", "F", "1"
    made.AccessionNumber = made.ReferringPhysicianName = made.StudyDate = made.StudyTime = ""
    made.SeriesNumber, made.InstanceNumber = 1, 1
    if pixels is not None:
        bits = 8 * pixels.dtype.itemsize
        made.Rows, made.Columns = pixels.shape[:2]
        made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
        made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
        if pixels.ndim == 3:
            made.PlanarConfiguration = 0
        made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
        made.PixelRepresentation = int(pixels.dtype.kind == "i")
        made.PixelData = pixels.tobytes()
        made["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in says.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def saved(made: Dataset, syntax: UID = ExplicitVRLittleEndian, pixels: np.ndarray | None = None) -> bytes:
    """A dataset as a file in a transfer syntax; all but :data:`LOSSLESS` hold a lossy JPEG of ``pixels``."""
    if syntax in BY_GDCM and (syntax != JPEGExtended12Bit or made.BitsStored > 8):
        return _by_gdcm(saved(made), syntax)
    if syntax in (RLELossless, JPEGLSLossless):
        made.compress(syntax, generate_instance_uid=False)
    elif syntax not in LOSSLESS.values():
        assert pixels is not None
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        made.PixelData = encapsulate([file.getvalue()])
        made["PixelData"].VR = "OB"
    elif syntax == ExplicitVRBigEndian and made.BitsAllocated == 16:
        made.PixelData = np.frombuffer(made.PixelData, "<u2").astype(">u2").tobytes()
    made.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom(pixels: np.ndarray | None, syntax: UID = ExplicitVRLittleEndian, **says: Any) -> bytes:
    """A DICOM file of an X-ray."""
    return saved(dataset(pixels, **says), syntax, pixels)


def _by_gdcm(plain: bytes, syntax: UID) -> bytes:
    with TemporaryDirectory() as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        before.write_bytes(plain)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(BY_GDCM[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return after.read_bytes()
