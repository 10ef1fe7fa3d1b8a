"""What every step uses: parameters, the cohort, files, images, results, S3, provenance and the terminal."""

__version__ = "0.1.0"  # of the project; pyproject.toml and the image's label take it from here
