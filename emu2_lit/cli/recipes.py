"""Look before you run: `recipes`, `show`, `validate`."""

import argparse
import json

from emu2_lit.errors import UserError
from emu2_lit.recipe import catalog, load, missing_files, read, required_keys, to_yaml


def register(commands: argparse._SubParsersAction) -> None:
    listing = commands.add_parser("recipes", help="list the shipped recipes")
    listing.add_argument("--markdown", action="store_true", help="as the table in the README")
    listing.set_defaults(command=list_recipes)

    show = commands.add_parser("show", help="print a recipe with all its values, and what they mean")
    add_recipe(show)
    show.set_defaults(command=show_recipe)

    validate = commands.add_parser("validate", help="check recipes and the files they name; run nothing")
    validate.add_argument("recipes", nargs="+", metavar="RECIPE|KEY=VALUE", help="recipes; overrides hold for all")
    validate.set_defaults(command=validate_recipes)

    for command in (listing, show, validate):
        command.add_argument("--json", action="store_true", help="machine-readable output")


def add_recipe(command: argparse.ArgumentParser) -> None:
    """The arguments of a command that takes one recipe."""
    command.add_argument("recipe", metavar="RECIPE", help="a shipped name (chat/lora) or a YAML path")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as trainer.max_steps=40")


def list_recipes(args: argparse.Namespace) -> None:
    found = [
        {
            "name": name,
            "description": catalog.description(name),
            "commands": catalog.commands(name),
            "hardware": catalog.hardware(name),
            "path": str(catalog.path(name)),
        }
        for name in catalog.names()
    ]
    if args.json:
        print(json.dumps(found, indent=2))
        return
    if args.markdown:
        print(markdown_table(found))
        return
    width = max((len(recipe["name"]) for recipe in found), default=0)
    for recipe in found:
        print(f"{recipe['name']:{width}}  {recipe['description']}")


def markdown_table(found: list[dict]) -> str:
    """What runs where, from the recipes' own headers."""
    rows = [f"| `{r['name']}` | {r['description']} | {r['hardware']} |" for r in found]
    return "\n".join(["| recipe | what it does | what it runs on |", "|---|---|---|", *rows])


def show_recipe(args: argparse.Namespace) -> None:
    values = read(args.recipe, args.overrides)
    print(json.dumps(values, indent=2) if args.json else to_yaml(values), end="")


def validate_recipes(args: argparse.Namespace) -> int:
    overrides = [given for given in args.recipes if "=" in given]
    reports = [_report(name, overrides) for name in args.recipes if "=" not in name]
    if not reports:
        raise UserError("validate: name at least one recipe")
    if args.json:
        print(json.dumps(reports, indent=2))
    else:
        for report in reports:
            _print_report(report)
    return 2 if any(report["errors"] for report in reports) else 0


def _report(name: str, overrides: list[str]) -> dict:
    """What is wrong with a recipe, and which values it leaves to the user."""
    required: list[str] = []
    try:
        required = required_keys(read(name, overrides))
        recipe = load(name, overrides + [f"{key}=to-be-given" for key in required])
        missing = [message for message in missing_files(recipe) if message.split(":")[0] not in required]
        errors = [f"{name}: {message}" for message in missing]
    except UserError as error:
        errors = str(error).splitlines()
    return {"recipe": name, "errors": errors, "required": required}


def _print_report(report: dict) -> None:
    if report["errors"]:
        print(f"{report['recipe']}: {len(report['errors'])} error(s)")
        print("\n".join(f"  {error}" for error in report["errors"]))
    else:
        given = f" once you give {' '.join(f'{key}=...' for key in report['required'])}" if report["required"] else ""
        print(f"{report['recipe']}: ok{given}")
