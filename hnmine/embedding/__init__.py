"""Texts to vectors: the store, what it lacks, who encodes it, and the ensemble of all encoders."""
