"""The feature registry: which SAE features carry which concept, since when and on whose word."""
