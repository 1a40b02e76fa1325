"""Settings: one model per step, and the reading of them from YAML and --set."""
