"""Ways to choose what a re-ranker is trained on."""
