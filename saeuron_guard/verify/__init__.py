"""Draws audit prompts without and with a guard, judges the images and decides."""
