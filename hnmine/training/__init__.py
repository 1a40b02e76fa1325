"""Fine-tuning of a re-ranker: lists, lessons, losses, the worker, and where it runs."""
