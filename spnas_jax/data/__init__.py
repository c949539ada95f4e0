"""Data sets, and batches of their images."""
