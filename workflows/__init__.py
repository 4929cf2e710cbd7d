"""Graphs: which node feeds which. All science is in the plain functions of the package."""
