"""`evaluate`: benchmarks of a recipe's model, few-shot and drawn."""

import argparse
import json
from dataclasses import asdict

from emu2_lit.cli.recipes import add_recipe
from emu2_lit.errors import UserError
from emu2_lit.recipe import load, missing_files


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("evaluate", help="few-shot and drawing benchmarks; the same command again goes on")
    add_recipe(command)
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.set_defaults(command=evaluate)


def evaluate(args: argparse.Namespace) -> None:
    recipe = load(args.recipe, args.overrides)
    if missing := missing_files(recipe):
        raise UserError("\n".join(f"{args.recipe}: {message}" for message in missing))
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from emu2_lit.run.evaluate import evaluate as run

    scores = run(recipe)
    if rank_zero_only.rank == 0:
        print(json.dumps([asdict(score) for score in scores], indent=2) if args.json else told(scores))
        if not args.json:
            print(f"See {recipe.run.dir}/report.html")


def told(scores: list) -> str:
    """Few-shot scores in one table, every benchmark that draws in one of its own."""
    few_shot = [one for one in scores if hasattr(one, "shots")]
    parts = [table(few_shot)] if few_shot else []
    for one in scores:
        if not hasattr(one, "shots"):
            left_out = (f"left out: {names} ({why})" for names, why in one.left_out.items())
            parts.append("\n".join([one.title, columns(one.table()), *left_out]))
    return "\n\n".join(parts)


def table(scores: list) -> str:
    """One line per benchmark and number of shots: ours, its interval at 95%, the paper's."""
    rows = [("benchmark", "shots", "items", "metric", "score", "95% interval", "paper")]
    for one in scores:
        interval = f"{one.interval.low:.3f}..{one.interval.high:.3f}" if one.interval else "-"
        paper = f"{one.published:.1f}" if one.published is not None else "-"
        rows.append((one.benchmark, one.shots, str(one.items), one.metric, _told(one), interval, paper))
    return columns(rows)


def columns(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as lines of columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _told(one) -> str:
    if one.score is not None:
        return f"{one.score:.3f}"
    return "not scored" if one.answered else "does not fit"
