"""What the model learns from: importers -> Sample -> order -> batches -> LightningDataModules."""

from datamodules.chat import ChatDataModule

__all__ = ["ChatDataModule"]
