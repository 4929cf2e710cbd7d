"""Figures and HTML reports made from what is on disk."""
