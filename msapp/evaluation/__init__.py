"""Scores of predictions against manual masks."""
