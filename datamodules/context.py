"""What an importer knows about where its record comes from: ids, and how to find its pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emu2_lit.model.video import pictures_of
from emu2_lit.samples.sample import BadSample, FileSlice, Video


@dataclass(frozen=True)
class Context:
    """`root` is the folder of relative picture names; `members` (tars) are the sample's own files by suffix,
    and `format` is then that of their json. The other fields are those of SourceSettings."""

    root: Path
    label: str
    key: str = ""
    members: dict[str, FileSlice] = field(default_factory=dict)
    num_frames: int = 8
    format: str = "auto"
    min_similarity: float = 0.0
    min_score: float = 0.0

    def sample_id(self, record: dict[str, Any]) -> str:
        """The record's own id, else where it stands in its file."""
        own = record.get("id")
        return str(own) if own not in (None, "") else self.label

    def image(self, value: Any) -> Any:
        """A lazily read image: a path, bytes, data URI or FileSlice. BadSample for what cannot be one."""
        if isinstance(value, dict):
            value = next((value[key] for key in ("bytes", "path", "url", "image") if value.get(key)), value)
        if isinstance(value, bytes | FileSlice) or (isinstance(value, str) and value.startswith("data:")):
            return value
        if not isinstance(value, str) or not value:
            raise BadSample(f"an image must be a path, a data URI or bytes, not {value!r}")
        if value.startswith(("http://", "https://")):
            raise BadSample(f"{value}: pictures are not downloaded while training; store them beside the data")
        if self.members:
            return self._member(value)
        return str(self.root / value.removeprefix("file://"))

    def video(self, value: Any) -> Video:
        """A video from a path, a folder of frames, or a list of frames."""
        if isinstance(value, list | tuple):
            if not value:
                raise BadSample("a video has no frames")
            return Video(tuple(self.image(frame) for frame in value), self.num_frames)
        source = self.image(value)
        if isinstance(source, str) and Path(source).is_dir():
            return self.video([str(path) for path in pictures_of(Path(source))])
        return Video(source, self.num_frames)

    def _member(self, name: str) -> FileSlice:
        file = name.rsplit("/", 1)[-1]
        stem = self.key.rsplit("/", 1)[-1]
        for suffix in (name, file, file.removeprefix(f"{stem}.")):
            if suffix.lower() in self.members:
                return self.members[suffix.lower()]
        raise BadSample(f"the json names the image {name!r}, but the sample has only: {', '.join(self.members)}")
