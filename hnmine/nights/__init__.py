"""One night after the other: what changed is mined, and a re-ranker that is not worse is deployed."""
