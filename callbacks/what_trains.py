"""What trains, shown before the first step."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

_COLUMNS = ("part", "tuning", "learning rate", "parameters", "share")


class WhatTrains(Callback):
    """Prints a table of the network's parts: how each is tuned (full, lora, tokens, frozen), its learning rate and
    its parameters. On a terminal as a table, elsewhere as plain lines."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.show(pl_module.parameter_parts())

    def show(self, parts: list[dict[str, Any]]) -> None:
        """Print rows of part, mode, lr (None for a frozen part) and number of parameters."""
        rows, summary = _rows(parts), _summary(parts)
        if self.console.is_terminal:
            self.console.print(_table(rows, summary))
            return
        # `print` would wrap long lines at the width of a terminal that is not there
        self.console.out("What trains:", highlight=False)
        for part, tuning, lr, count, share in rows:
            self.console.out(f"  {part}: {tuning}, lr {lr}, {count} parameters ({share})", highlight=False)
        self.console.out(f"  {summary}", highlight=False)


def _rows(parts: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    total = _total(parts)
    return [
        (
            row["part"],
            row["mode"],
            "-" if row["lr"] is None else f"{row['lr']:g}",
            f"{row['parameters']:,}",
            f"{row['parameters'] / total:.2%}",
        )
        for row in parts
    ]


def _summary(parts: list[dict[str, Any]]) -> str:
    total = _total(parts)
    trained = sum(row["parameters"] for row in parts if row["mode"] != "frozen")
    return f"{trained:,} of {total:,} parameters train ({trained / total:.2%})"


def _total(parts: list[dict[str, Any]]) -> int:
    return sum(row["parameters"] for row in parts)


def _table(rows: list[tuple[str, ...]], summary: str) -> Table:
    table = Table(title="What trains", caption=summary, caption_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("part", "tuning") else "right")
    for row in rows:
        table.add_row(*row, style="dim" if row[1] == "frozen" else "")
    return table
