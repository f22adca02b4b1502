"""Compares the guard with other ways of removing a concept, and times work on a large registry."""
