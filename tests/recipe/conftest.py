from pathlib import Path

import pytest

SOUND = """\
# A small recipe
#
#   emu2-lit fit mine.yaml
#
# For: any laptop.
# Measured: nothing.

model: {preset: tiny}
data:
  sources:
    - path: chats.json
  global_batch_size: 8
trainer: {max_steps: 4}
"""


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    """Writes a recipe `mine.yaml` in an empty current folder: the sound one, with lines added."""
    monkeypatch.chdir(tmp_path)

    def write(added: str = "", text: str = SOUND) -> Path:
        path = Path("mine.yaml")
        path.write_text(text + added, encoding="utf-8")
        return path

    return write
