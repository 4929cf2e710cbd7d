"""Lesions of a visit and between visits: plain functions on arrays."""
