"""Compares the guard with other ways of removing a concept, on the same images."""
