"""Inference: read X-rays, predict on files, and serve over HTTP."""
