"""Policies: what teams write, validated and frozen."""
