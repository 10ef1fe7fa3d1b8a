"""The networks, their training and their use: PyTorch, and nothing of DVC, MLflow or Kubeflow."""
