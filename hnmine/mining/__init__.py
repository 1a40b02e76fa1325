"""Vectors to hard negatives: fuse, reduce by PCA, search, the two conditions, guards."""
