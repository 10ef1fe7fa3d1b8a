"""The Kubeflow pipeline of the steps, its client and its local runners."""
