"""Quantise a network to 8-bit integers, for comparison with the shipped engines in ``benchmarks.inference``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.inference.engines import to_array
from model.inference.export import INPUT


def quantise(source: Path, images: npt.NDArray[np.uint8], out: Path) -> None:
    """Write an exported network with static 8-bit quantisation of weights and activations.

    Weights become int8 with a scale per output channel. Activations become uint8 with a scale per tensor, from the
    minimum and maximum over the calibration images (Jacob et al. 2018, "Quantization and Training of Neural Networks
    for Efficient Integer-Arithmetic-Only Inference"). The file has pairs of QuantizeLinear and DequantizeLinear, which
    ONNX Runtime and OpenVINO fold into integer convolutions.

    Args:
        source: the ONNX file of a network with one input channel.
        images: calibration images, uint8 (N, S, S), as :func:`model.preprocessing.standardise` returns them.
        out: the file to write; equal inputs give equal bytes.
    """
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[npt.NDArray[np.uint8]] = iter(images)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: to_array(image[None])}

    logging.disable(logging.WARNING)  # it advises to fold BatchNorms first, which the export has done
    try:
        quantize_static(
            str(source),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # with signed activations OpenVINO loses 15 points of Dice
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
