"""Run folders, checkpoints, resuming, signals, device and precision, progress, estimate."""
