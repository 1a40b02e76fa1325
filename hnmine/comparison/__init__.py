"""Arms side by side, and the audit of hidden positives."""
