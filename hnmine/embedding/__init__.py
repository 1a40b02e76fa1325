"""Texts to vectors: the store, what it lacks, who encodes it, the ensemble of encoders, and scores that are kept."""
