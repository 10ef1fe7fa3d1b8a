"""The same steps chained on a cluster: the Kubeflow graph."""
