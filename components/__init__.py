"""The pipeline's steps: each is one function, one command and one Kubeflow component."""
