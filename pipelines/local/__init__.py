"""Run the Kubeflow pipeline on one machine, in processes or in containers."""
