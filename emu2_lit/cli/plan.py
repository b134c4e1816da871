"""`plan`: what a run will take, before it runs."""

import argparse
import json
import re

from emu2_lit.errors import UserError

_FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_COUNTS = (1, 2, 4, 8, 16, 64)


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("plan", help="memory, time and disk of a run, before it runs")
    command.add_argument("recipe", metavar="RECIPE", nargs="?", help="a shipped name (chat/lora) or a YAML path")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data.micro_batch_size=4")
    command.add_argument("--devices", type=int, help="of the whole run; default: the recipe's")
    command.add_argument("--memory", type=memory_size, help="of one device, such as 80GiB: says whether it fits")
    command.add_argument("--strategy", help="in the place of trainer.strategy, such as fsdp or deepspeed_stage_3")
    command.add_argument("--optimizer", choices=("adamw", "adamw_8bit"), help="default: the recipe's")
    command.add_argument("--images", type=int, help="pictures of a sample; default: one, of documents data's limit")
    command.add_argument("--gpu", metavar="NAME", help="for the time: h100 (default), a100, ...")
    command.add_argument("--table", action="store_true", help="the least memory of every shipped training recipe")
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.set_defaults(command=plan)


def plan(args: argparse.Namespace) -> int:
    from emu2_lit.plan import describe
    from emu2_lit.run.plan import Circumstances, open_recipe
    from emu2_lit.run.plan import plan as make

    if args.table:
        if args.recipe:
            raise UserError("plan: give a recipe or --table, not both")
        return table(args.json)
    if not args.recipe:
        raise UserError("plan: name a recipe, or give --table")
    if args.devices is not None and args.devices < 1:
        raise UserError(f"--devices {args.devices}: must be at least 1")
    made = make(
        open_recipe(args.recipe, args.overrides),
        Circumstances(
            devices=args.devices, strategy=args.strategy, optimizer=args.optimizer, memory=args.memory,
            images=args.images, device=args.gpu,
        ),
    )  # fmt: skip
    print(json.dumps(made.values(), indent=2) if args.json else describe(made))
    return 2 if made.fits is False else 0


def table(as_json: bool) -> int:
    """Markdown, or JSON: the least memory of a device, by recipe and number of devices."""
    from emu2_lit.run.plan_table import rows

    found = rows(_COUNTS)
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"| recipe | {' | '.join(_plural(count) for count in _COUNTS)} |")
    print(f"|---|{'---:|' * len(_COUNTS)}")
    for row in found:
        print(f"| `{row['recipe']}` | {' | '.join(row['cells'])} |")
    return 0


def _plural(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def memory_size(text: str) -> int:
    """Bytes of `80GiB`, `80GB`, `80G` (all binary) or a plain number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; such as 80GiB")
    return int(float(found[1]) * _FACTORS[found[2].upper()])
