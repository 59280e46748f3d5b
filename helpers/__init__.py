"""Compress the Dense layers of a Keras model by singular value decomposition."""
