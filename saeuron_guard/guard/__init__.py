"""The guard at run time: attached to a pipeline, it edits activations in every denoising step or no image comes out."""
