"""Data for the objectives that learn pictures: documents (paper, supplement B.1), what is to be drawn (D.1), and
pictures alone (B.3)."""

from typing import Any

from datamodules.chat import ChatDataModule
from emu2_lit.settings import GenerationSettings, PictureSettings


class InterleavedDataModule(ChatDataModule):
    """The same order, batches and state as ChatDataModule's; documents are learned whole, text and pictures, by the
    rules of `datamodules/documents.py`. Arguments are those of ChatDataModule."""

    def __init__(self, *args: Any, learn_pictures: bool = True, **kwargs: Any):
        super().__init__(*args, learn_pictures=learn_pictures, **kwargs)


class GenerationDataModule(ChatDataModule):
    """The same order, batches and state as ChatDataModule's; every sample ends in the picture to be drawn, by the rules
    of `datamodules/generation.py`. Arguments are those of ChatDataModule."""

    def __init__(self, *args: Any, generation: GenerationSettings | None = None, **kwargs: Any):
        super().__init__(*args, generation=generation or GenerationSettings(), **kwargs)


class PictureDataModule(ChatDataModule):
    """The same order, batches and state as ChatDataModule's; of every sample a square of its last picture is learned,
    by the rules of `datamodules/pictures.py`. Arguments are those of ChatDataModule; `pictures.size` is given."""

    def __init__(self, *args: Any, pictures: PictureSettings, **kwargs: Any):
        super().__init__(*args, pictures=pictures, **kwargs)
