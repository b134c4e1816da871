"""The recipes that come with the kit: names, paths and what their headers say.

A shipped recipe `chat/lora` is the file `chat/lora.yaml` of the recipe folder, which is package data in an
installed kit and lies beside the package in a checkout. The comment lines at its top are its header: what it
does in one line, the commands that run it, and a paragraph `For: ...` on hardware and what was measured.
"""

from difflib import get_close_matches
from pathlib import Path

from emu2_lit.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = (".yaml", ".yml")


def folder() -> Path:
    """Where the shipped recipes lie."""
    inside = PACKAGE / "recipes"
    return inside if inside.is_dir() else PACKAGE.parent / "recipes"


def names() -> list[str]:
    """Names of all shipped recipes, sorted."""
    return sorted(name_of(file) for file in folder().rglob("*.yaml"))


def path(name: str | Path) -> Path:
    """The file of a shipped name, or of a path. UserError, with the nearest name, if there is none."""
    given = Path(name).expanduser()
    if given.suffix in SUFFIXES:
        if given.is_file():
            return given
        raise UserError(f"no recipe file {given}, looked for in {Path.cwd()}{_hint(given.with_suffix(''))}")
    if given.as_posix() in names():
        return folder() / f"{given.as_posix()}.yaml"
    raise UserError(f"no recipe {str(name)!r}{_hint(given)}")


def is_recipe(name: str | Path) -> bool:
    """Whether `name` means a recipe: a YAML path or a shipped name."""
    return Path(name).suffix in SUFFIXES or Path(name).as_posix() in names()


def name_of(file: Path) -> str:
    """A shipped recipe's name; a user's own is called by its path from here, without the suffix."""
    full = file.resolve()
    for root in (folder().resolve(), Path.cwd().resolve()):
        if full.is_relative_to(root):
            return full.relative_to(root).with_suffix("").as_posix()
    return file.stem


def header(name: str | Path) -> list[str]:
    """The comment lines at the top of a recipe, without their marks."""
    lines = []
    for line in path(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return lines


def description(name: str | Path) -> str:
    """The first line of the header."""
    return next((line for line in header(name) if line), "")


def commands(name: str | Path) -> list[str]:
    """The command lines of the header: those that run the recipe."""
    return [line for line in header(name) if line.startswith(("emu2-lit ", "make "))]


def hardware(name: str | Path) -> str:
    """What the header says of the machine it is for and of what was measured there: its paragraph `For: ...`."""
    text = "\n".join(header(name))
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return next((p.removeprefix("For: ") for p in paragraphs if p.startswith("For: ")), "")


def _hint(name: Path) -> str:
    near = get_close_matches(name.as_posix(), names(), n=1, cutoff=0.5)
    suggestion = f"; did you mean {near[0]}?" if near else "."
    return f"{suggestion} `emu2-lit recipes` lists the shipped recipes; your own is named by its .yaml path"
