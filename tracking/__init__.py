"""MLflow tracking: the store, the run of each training run, and unsent records."""
