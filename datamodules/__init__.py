"""What the model learns from: importers -> Sample -> order -> batches -> LightningDataModules."""
