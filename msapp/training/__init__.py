"""Training networks from recipes."""
