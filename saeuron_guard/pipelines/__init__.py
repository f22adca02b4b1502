"""Loading diffusion pipelines and drawing pictures with them."""
