"""Thin nipype interfaces of the plain functions."""
