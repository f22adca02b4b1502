"""EmojiCanvas: the small diffusion model that ships with the package, and the command that builds it."""
