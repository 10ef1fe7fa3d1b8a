"""Inference: prediction, post-processing, engines, export and the model package."""
