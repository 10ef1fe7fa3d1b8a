"""Shared by all steps: parameters, the cohort, files, images, results, S3, provenance and the terminal."""

__version__ = "0.1.0"  # pyproject.toml and the image's label read it from here
