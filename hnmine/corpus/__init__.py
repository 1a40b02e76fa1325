"""The collection: read, checked, and what is wrong with it set aside with a reason."""
