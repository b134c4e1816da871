"""`python -m emu2_lit`: the same as the command `emu2-lit`."""

import os
import sys
from pathlib import Path


def _forget_current_folder() -> None:
    """`python -m` puts the current folder first on the path, where the user may have a `callbacks/` of their own."""
    here = os.getcwd()
    if sys.path and sys.path[0] in ("", here) and not Path(__file__).resolve().is_relative_to(Path(here).resolve()):
        del sys.path[0]


if __name__ == "__main__":
    _forget_current_folder()
    from emu2_lit.signals import early

    early.listen()  # before anything slow is imported
    from emu2_lit.cli import main

    sys.exit(main())
