"""Nights: the collection is mined again as it changes, and a re-ranker that is not worse is deployed."""
