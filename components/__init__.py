"""The steps of the pipeline: one step = one plain function = one command = one Kubeflow component."""
