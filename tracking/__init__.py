"""MLflow tracking: the store, the MLflow run of each training run, and unsent records."""
