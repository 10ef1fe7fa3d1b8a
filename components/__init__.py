"""One step = one function = one command = one Kubeflow component; nothing else is in here."""
