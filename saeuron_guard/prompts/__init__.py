"""Prompt sets: prompts with the concepts that they ask for, each set for one purpose."""
