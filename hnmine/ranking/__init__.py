"""First stage, re-ranking task, measures, significance, and the blend of scores."""
