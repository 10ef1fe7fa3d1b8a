"""Chest X-rays: decoding, DICOM, findings and overlays."""
