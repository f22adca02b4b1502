"""Sparse autoencoders in the checkpoint format of EleutherAI/sparsify."""
