"""What a run learns from: importers make Samples, the order arranges them, the loader deals them out in batches."""

from datamodules.chat import ChatDataModule
from datamodules.interleaved import GenerationDataModule, InterleavedDataModule, PictureDataModule

__all__ = ["ChatDataModule", "GenerationDataModule", "InterleavedDataModule", "PictureDataModule"]
