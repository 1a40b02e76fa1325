"""What every run stands on: its folder, its cache, places for files, devices, Ray, progress and counters."""
