"""The steps of the pipeline: one step = one plain function = one command = one Kubeflow component."""

__version__ = "0.1.0"  # of the project; pyproject.toml and the image's label take it from here
