"""Squares of pictures for the visual decoder: what is cut, what goes with it, what is left out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures

from datamodules import PictureDataModule
from datamodules.check import check
from datamodules.collate import Collator, Draw, target_counts
from datamodules.pictures import PictureRules
from datamodules.sources import Source
from emu2_lit.model.images import square_pixels
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.sample import BadSample, Part, Sample
from emu2_lit.samples.squares import SquareCut
from emu2_lit.settings import PictureSettings, SourceSettings

COFFEE, CAT = Image.fromarray(pictures.coffee()), Image.fromarray(pictures.chelsea())  # 600x400, 451x300
SETTINGS = SourceSettings("pictures.jsonl")


def rules(processor, seed=0, **settings):
    return PictureRules(processor, 64, PictureSettings(**{"size": 56, **settings}), seed)


def sample(*values, id="x", role="none"):
    return Sample(id, tuple(Part("image", value, role) for value in values))


def test_the_last_picture_is_cut_and_seen_alike(processor):
    encoded = encode(rules(processor)(sample(COFFEE, CAT), SETTINGS), processor)
    seen, drawn = encoded.pixel_values, encoded.target_pixels
    assert seen.shape == drawn.shape == (1, 3, 56, 56)
    square = Image.fromarray(((drawn[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    assert torch.equal(seen[0], square_pixels(square, 56))
    height, width, top, left, *size = encoded.sizes[0].tolist()
    assert (height, width, top, size) == (300, 451, 0, [56, 56])
    scaled = CAT.resize((84, 56), Image.Resampling.LANCZOS)
    assert 0 <= left <= 28
    assert np.array_equal(square, scaled.crop((left, 0, left + 56, 56)))


def test_scale_and_place_are_drawn_by_sample_and_epoch(processor):
    varied = rules(processor, max_scale=2.0)
    cuts = [varied(sample(COFFEE), SETTINGS, epoch).parts[0].value for epoch in range(200)]
    assert cuts == [varied(sample(COFFEE), SETTINGS, epoch).parts[0].value for epoch in range(200)]
    assert cuts[0] != varied(sample(COFFEE, id="y"), SETTINGS).parts[0].value
    assert cuts[0] != rules(processor, seed=1, max_scale=2.0)(sample(COFFEE), SETTINGS).parts[0].value
    scales = [cut.scale for cut in cuts]
    assert 1 <= min(scales) < 1.1 and 1.9 < max(scales) < 2
    for cut in cuts[:20]:
        height, width, top, left, *size = cut.sizes
        assert (height, width, size) == (400, 600, [56, 56]) and cut.picture().size == (56, 56)
        assert 0 <= top <= round(56 * cut.scale) - 56 and 0 <= left <= round(84 * cut.scale) - 56


def test_small_pictures_are_enlarged_unless_refused():
    small = Image.new("RGB", (20, 30))
    assert SquareCut(small, 56).picture().size == (56, 56)
    with pytest.raises(BadSample, match="20x30 pixels are too few.*each side needs 24"):
        SquareCut(small, 56, min_size=24).picture()


def test_any_sample_with_a_picture_will_do(processor):
    parts = (Part("image", CAT, "user"), Part("text", "what is it?", "user"), Part("text", "a cat", "assistant"))
    encoded = encode(rules(processor)(Sample("chat", parts), SETTINGS), processor)
    assert len(encoded.input_ids) == processor.n_query + 4
    with pytest.raises(BadSample, match="no picture to draw"):
        rules(processor)(Sample("text", parts[1:]), SETTINGS)


def test_a_batch_counts_the_visual_tokens_of_its_pictures(processor):
    cut = rules(processor)
    items = [encode(cut(sample(value), SETTINGS), processor) for value in (CAT, COFFEE)]
    collate = Collator(processor.tokenizer.bos_id, processor.tokenizer.pad_id)
    batch = collate([Draw("a", 0, items[0]), Draw("a", 0, None), Draw("a", 0, items[1])])
    assert batch["target_pixels"].shape == (2, 3, 56, 56) and batch["sizes"].shape == (2, 6)
    assert target_counts(batch)[1] == 2 * processor.n_query
    assert "target_pixels" not in collate([Draw("a", 0, None)])


def test_a_folder_of_pictures_is_a_source(processor, tmp_path):
    for name, picture in (("cat", CAT), ("coffee", COFFEE)):
        picture.save(tmp_path / f"{name}.png")
    source = Source(SourceSettings(str(tmp_path)))
    cuts = [rules(processor)(source[index], SETTINGS).parts[0].value for index in range(2)]
    assert {cut.sizes[:2] for cut in cuts} == {(300, 451), (400, 600)}


def test_check_and_ledger_name_what_is_too_small(processor, tmp_path):
    COFFEE.save(tmp_path / "good.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    rows = [{"image": f"{name}.png", "caption": "x", "id": name} for name in ("good", "small")]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings, sources = PictureSettings(size=56, min_size=50), [SourceSettings(str(tmp_path / "two.jsonl"))]
    report = check(sources, processor, pictures=settings)
    assert (report.good, report.images) == (1, 1) and "20x20" in report.bad[0]["reason"]
    data = PictureDataModule(sources=sources, processor=processor, pictures=settings)
    assert isinstance(data._rules(0), PictureRules)
