"""Documents of texts, pictures and videos, for the unified objective (paper, supplement B.1)."""

from typing import Any

from datamodules.chat import ChatDataModule


class InterleavedDataModule(ChatDataModule):
    """The same order, batches and state as ChatDataModule's; documents are learned whole, text and pictures, by the
    rules of `datamodules/documents.py`. Arguments are those of ChatDataModule."""

    def __init__(self, *args: Any, learn_pictures: bool = True, **kwargs: Any):
        super().__init__(*args, learn_pictures=learn_pictures, **kwargs)
