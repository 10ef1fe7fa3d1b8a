"""The Kubeflow pipeline, its client and its local runners."""
