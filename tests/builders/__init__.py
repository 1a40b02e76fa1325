"""Collections, models, vectors and settings that several test modules build; no test imports from another test."""
