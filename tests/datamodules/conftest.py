"""Small data files, made by each test for itself."""

import json

import pytest
from PIL import Image

from emu2_lit.model import Emu2Config, Emu2Processor


@pytest.fixture(scope="session")
def processor():
    return Emu2Processor.for_config(Emu2Config.preset("tiny")).with_role_tokens()


@pytest.fixture
def chat_file(tmp_path):
    """Writes a LLaVA file of `count` one-turn samples with a picture; that of `broken` ones is missing."""

    def write(name="chat.json", count=10, broken=(), answer="seven"):
        Image.new("L", (16, 16), 128).save(tmp_path / "a.png")
        records = [
            {
                "id": f"s{i}",
                "image": "missing.png" if i in broken else "a.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nwhich digit is written here?" + " please" * (i % 3)},
                    {"from": "gpt", "value": answer},
                ],
            }
            for i in range(count)
        ]
        (tmp_path / name).write_text(json.dumps(records))
        return str(tmp_path / name)

    return write
