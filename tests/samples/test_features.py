"""Files of features: what names a picture, and rows that come back as they were written."""

import pytest
import torch
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.model.vision import pool
from emu2_lit.samples.drawn import SubjectCrop, TargetPicture
from emu2_lit.samples.features import FeatureStore, finest, hash_bytes, picture_id, write_shard
from emu2_lit.samples.sample import BadSample


def test_a_picture_is_named_by_its_bytes_wherever_they_lie(tmp_path):
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"{name}.png")
    a, b, c = (picture_id(tmp_path / f"{name}.png") for name in "abc")
    assert a == b == picture_id((tmp_path / "a.png").read_bytes()) != c
    crops = [SubjectCrop(tmp_path / f"{name}.png") for name in "abc"]
    crops += [SubjectCrop(tmp_path / "a.png", (0, 0, 0.5, 1)), SubjectCrop(tmp_path / "a.png", background=7)]
    names = [picture_id(crop) for crop in crops]
    assert names[0] == names[1] and len(set(names)) == 4 and a not in names
    assert picture_id(TargetPicture(tmp_path / "a.png", 4)) != picture_id(TargetPicture(tmp_path / "a.png", 5))
    with pytest.raises(BadSample, match="no such file"):
        picture_id(tmp_path / "none.png")


def test_rows_come_back(tmp_path):
    """Also under names that end in zeros, which NumPy cuts from byte strings."""
    named = {bytes([place, *[0] * 15]): torch.randn(4, 6) for place in range(1, 40)}
    named[hash_bytes(b"x")[:15] + b"\0"] = torch.randn(4, 6)
    items = list(named.items())
    write_shard(tmp_path, dict(items[:20]))
    write_shard(tmp_path, dict(items[20:]), {bytes(16): "is damaged"})
    store = FeatureStore(tmp_path)
    assert len(store) == 40 and store.knows(bytes(16), 4) and not store.knows(b"y" * 16, 4)
    assert not store.knows(items[0][0], 16)
    for id, features in items:
        row = store._find(id, 4)
        assert torch.equal(store._open(row["file"]).get_slice("features")[int(row["row"])], features)


def test_fewer_tokens_are_pooled_from_more(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    patches = torch.randn(1, 1 + 64, 5)
    write_shard(tmp_path / "out", {picture_id(tmp_path / "a.png"): pool(patches, 16)[0]})
    store = FeatureStore(tmp_path / "out")
    torch.testing.assert_close(store(tmp_path / "a.png", 4), pool(patches, 4)[0])
    with pytest.raises(UserError, match=r"a\.png: this picture is not among the features .* 64 visual"):
        store(tmp_path / "a.png", 64)
    assert finest([64, 256, 64]) == [256] and sorted(finest([36, 16])) == [16, 36]


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"a\.safetensors: damaged"):
        FeatureStore(tmp_path)
