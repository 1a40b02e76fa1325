"""Model folders, and the encoders and cross-encoders that are loaded from them."""
