"""The input dataset and the names of the output."""
