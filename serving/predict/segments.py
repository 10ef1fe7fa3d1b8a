"""A mask as a DICOM Segmentation object that refers to its X-ray (PS3.3, A.51; SNOMED CT codes as in PS3.16)."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from core.images import ImageError
from model.lungs import Mask, halves
from serving.xray.sides import mirrored

LUNG, LEFT, RIGHT = (
    Code("39607008", "SCT", "Lung"),
    Code("44029006", "SCT", "Left lung"),
    Code("3341006", "SCT", "Right lung"),
)
STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
# Every image has them, empty where nothing is known (type 2 of PS3.3, C.7.1.1 and C.7.2.1); exports leave some out.
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
SERIES = 9000  # series number: behind those of a modality


def to_seg(mask: Mask, source: Dataset, name: str, model: dict[str, Any]) -> bytes:
    """Return a DICOM SEG: the patient's left and right lung, or one lung segment where no side is known.

    It has the X-ray's patient and study, as DICOM requires of whatever belongs to one, and its rows and columns.

    Args:
        mask: uint8 (H, W), 1 where there is lung, at the X-ray's size.
        source: the X-ray's dataset; what it lacks and may be empty is added to it, empty.
        name: how the file is called in messages.
        model: ``name``, ``version`` and ``weights_sha256`` of what found it.

    Raises:
        ImageError: the X-ray lacks what a SEG has to state, such as its study.
    """
    for keyword in MAY_BE_EMPTY:
        if keyword not in source:
            setattr(source, keyword, "")
    turned = mirrored(source)
    if turned is None:
        planes, labels = [mask], [LUNG]
    else:
        on_left, on_right = halves(mask)
        planes, labels = ([on_left, on_right] if turned else [on_right, on_left]), [LEFT, RIGHT]
    algorithm = AlgorithmIdentificationSequence(
        name=model["name"], family=codes.DCM.ArtificialIntelligence, version=model["version"]
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=label.meaning,
            segmented_property_category=STRUCTURE,
            segmented_property_type=label,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(labels, 1)
    ]
    try:
        # The same X-ray and model give the same identifiers: a second run replaces the first in an archive.
        own = [str(source.SOPInstanceUID), model["weights_sha256"], hashlib.sha256(mask.tobytes()).hexdigest()]
        seg = Segmentation(
            source_images=[source],
            pixel_array=np.stack(planes, axis=-1)[None],
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=generate_uid(entropy_srcs=["series", *own[:2]]),
            series_number=SERIES,
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *own]),
            instance_number=1,
            manufacturer="DEFU-Net pipeline",
            manufacturer_model_name=model["name"],
            software_versions=model["version"],
            device_serial_number=model["weights_sha256"][:16],
            omit_empty_frames=False,
        )
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        # Not its text, which may quote the patient's name or whatever else the header says.
        lacking = getattr(error, "name", None)
        reason = type(error).__name__ + (f": {lacking}" if lacking else "")
        raise ImageError(f"{name}: no DICOM SEG can refer to it ({reason}); its mask is written as PNG") from error
    _drop_half_measures(seg)
    file = io.BytesIO()
    seg.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _drop_half_measures(seg: Segmentation) -> None:
    """Remove pixel measures without a thickness: a projection has none, and highdicom does not read them back.

    They are required only where there is a frame of reference (PS3.3, A.51.5.1); the X-ray referred to has the spacing.
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    if any("SliceThickness" not in item for item in shared.get("PixelMeasuresSequence", [])):
        del shared.PixelMeasuresSequence
