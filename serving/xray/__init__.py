"""Chest X-ray pictures: decoding, DICOM, findings and drawings."""
