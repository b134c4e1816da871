"""Runs as SLURM jobs: the batch script, submitting it, how it stands, stopping it."""
