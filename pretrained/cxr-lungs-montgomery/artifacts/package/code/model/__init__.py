"""Networks, training and inference in PyTorch, without DVC, MLflow or Kubeflow."""
