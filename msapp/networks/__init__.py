"""Architectures that MONAI does not have."""
