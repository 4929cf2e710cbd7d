"""Heads, contrasts, lesions and scanner artefacts made from nothing fetched."""
