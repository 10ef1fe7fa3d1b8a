"""Tools outside the pipeline: sample data, publication of results, profiles, checks and local services."""
