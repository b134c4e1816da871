import io

from rich.console import Console

from callbacks import WhatTrains
from tests.callbacks.toy import Batches, ToyModule, make_trainer


def shown(tmp_path, **console) -> str:
    output = io.StringIO()
    trainer = make_trainer(tmp_path, 1, WhatTrains(Console(file=output, **console)))
    trainer.fit(ToyModule(), Batches(1))
    return output.getvalue()


def test_a_terminal_gets_a_table_with_every_part_and_the_share_that_trains(tmp_path):
    text = shown(tmp_path, force_terminal=True, width=100, color_system=None)
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["lm", "lora", "0.0002", "1,500", "15.00%"] in rows
    assert ["visual", "frozen", "-", "8,500", "85.00%"] in rows
    assert "1,500 of 10,000 parameters train (15.00%)" in text


def test_elsewhere_plain_lines_that_are_not_wrapped(tmp_path):
    lines = shown(tmp_path, width=20).splitlines()
    assert lines == [
        "What trains:",
        "  lm: lora, lr 0.0002, 1,500 parameters (15.00%)",
        "  visual: frozen, lr -, 8,500 parameters (85.00%)",
        "  1,500 of 10,000 parameters train (15.00%)",
    ]
