"""The Kubeflow graph on one machine: in processes or in containers."""
