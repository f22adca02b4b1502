"""Judges: what an image shows, said by a classifier or by CLIP."""
