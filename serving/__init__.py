"""The model in use: reading a picture, predicting on files, and the HTTP service."""
