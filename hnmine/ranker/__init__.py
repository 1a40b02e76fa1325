"""The ranker: the best on dev of first stage, blend and re-rankers, as one folder and as one object."""
