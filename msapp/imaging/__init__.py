"""Geometry, intensities, registration and masks: plain functions on images."""
