"""MLflow tracking: the store, the run of each training, and records that wait to be sent."""
