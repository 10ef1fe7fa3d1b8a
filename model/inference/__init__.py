"""Trained networks in use: prediction, postprocessing, engines, export and the model package."""
