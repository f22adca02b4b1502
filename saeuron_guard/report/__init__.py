"""Renders a verification as text, JSON or a page."""
