"""The last words of a run: figures, a few answers, where to go on."""

import json
from pathlib import Path
from typing import Any


def farewell(folder: Path, summary: dict[str, Any]) -> str:
    """The figures, a few answers, and where to go on."""
    lines = []
    if "val/exact_match" in summary:
        before = summary.get("val/exact_match_base")
        was = f"{before:.3f} before tuning, " if before is not None else ""
        lines.append(f"Exact match on validation samples: {was}{summary['val/exact_match']:.3f} after")
        lines += [f"  {answer}" for answer in _answers(folder / "answers.jsonl")]
    if "stopped_because" in summary:
        lines.append(f"Stopped at step {summary['steps']}: {summary['stopped_because']}")
    lines += _compared("In context", "in_context", summary)
    lines += _compared("Drawings", "generation", summary)
    lines.append(f"Result: {summary['result']}")
    lines.append(f"  see     {folder / 'report.html'}")
    lines.append(f"  curves  tensorboard --logdir {folder}")
    if "val/exact_match" in summary:
        lines.append(f"  talk    emu2-lit chat {folder}")
    if any(name.startswith("generation/") for name in summary):
        lines.append(f"  draw    emu2-lit generate {folder} --prompt TEXT")
    if (folder / "model" / "unet").is_dir():
        lines.append(f"  draw    emu2-lit generate MODEL --image PICTURE.png --decoder {folder / 'model'}")
    else:
        lines.append(f"  export  emu2-lit export {folder} --to hf")
    return "\n".join(lines)


def _compared(title: str, kind: str, summary: dict[str, Any]) -> list[str]:
    """Figures of one kind, before and after."""
    names = [name for name in summary if name.startswith(f"{kind}/")]
    lines = [f"{title}, before and after tuning:"] if names else []
    for name in names:
        base = summary.get(name.replace(kind, f"{kind}_base", 1))
        before = "?" if base is None else f"{base:.3f}"
        lines.append(f"  {name.removeprefix(f'{kind}/')}: {before} -> {summary[name]:.3f}")
    return lines


def _answers(path: Path, shown: int = 4) -> list[str]:
    if not path.is_file():
        return []
    answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:shown]]
    return [
        f"{a['id']}: {a['question']!r} -> {a['prediction']!r}" + ("" if a["correct"] else f" (right: {a['answer']!r})")
        for a in answers
    ]
