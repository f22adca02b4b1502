"""Turns a policy and the feature registry into a guard's frozen configuration."""
