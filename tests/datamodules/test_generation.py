"""The rules of generation tuning: what is shown before the picture that is to be drawn."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures
from torch.utils.data import DataLoader

from datamodules import GenerationDataModule
from datamodules.chat import ChatDataModule
from datamodules.check import check
from datamodules.dataset import SampleDataset
from datamodules.generation import GenerationRules, inlined
from datamodules.order import GlobalOrder
from datamodules.sources import Source
from emu2_lit.errors import UserError
from emu2_lit.model.drawing import prompt_segments
from emu2_lit.model.subjects import Subject
from emu2_lit.samples.encoding import encode, read_picture
from emu2_lit.samples.masks import Polygons
from emu2_lit.samples.render import marked
from emu2_lit.samples.sample import BadSample, Box, Part, Sample, Video
from emu2_lit.settings import GenerationSettings, SourceSettings

COFFEE, CAT = Image.fromarray(pictures.coffee()), Image.fromarray(pictures.chelsea())
SETTINGS = SourceSettings("drawn.jsonl")
CALM = dict(drop_phrase=0, drop_box=0, drop_object=0, random_background=0, random_crop=0, inline=0)
CUP, SPOON = (0.1, 0.1, 0.6, 0.9), (0.6, 0.5, 0.9, 0.7)
MASK = Polygons(((0.1, 0.1, 0.6, 0.1, 0.6, 0.9),))
DRAWS = 300


def rules(processor, seed=3, **settings):
    return GenerationRules(processor, 1024, seed, GenerationSettings(**{**CALM, "min_size": 1, **settings}))


def caption(text="a cup of coffee"):
    return Sample("x", (Part("image", COFFEE), Part("text", text, learn=True)))


def grounded(masks=(), id="x"):
    """As the GRIT importer makes it: "a cup and two spoons", of which the spoons have two boxes."""
    parts = (
        Part("image", COFFEE), Part("text", "a ", learn=True), Part("box", Box("cup", (CUP,), masks=masks), learn=True),
        Part("text", " and ", learn=True), Part("box", Box("two spoons", (SPOON, CUP)), learn=True),
    )  # fmt: skip
    return Sample(id, parts, grounding=True)


def shown(processor, sample):
    """The sample as text: `o` an open subject picture, `#` the box's."""
    text = marked(encode(sample, processor), processor, "", "")
    image = f"[IMG]<image>*{processor.n_query}[/IMG]"
    return text.replace(f"<object>{image}</object>", "#").replace(image, "o")


def drawn(rules, sample, count=DRAWS):
    return [rules(sample, SETTINGS, epoch) for epoch in range(count)]


def test_a_captioned_picture_becomes_text_and_picture(processor):
    sample = rules(processor)(caption(), SETTINGS)
    assert shown(processor, sample) == "<s>a cup of coffeeo</s>"
    assert [part.learn for part in sample.parts] == [False, True]
    encoded = encode(sample, processor)
    assert int(encoded.visual_targets_mask.sum()) == processor.n_query
    assert encoded.visual_targets_mask.nonzero()[-1] == len(encoded.input_ids) - 3  # behind it [/IMG] and </s>


def test_boxes_of_a_caption_become_subjects(processor):
    calm = rules(processor)(grounded(), SETTINGS)
    names = "<phrase>cup</phrase>#o<phrase>two spoons</phrase>#o#o"
    assert shown(processor, calm) == f"<s><grounding>a cup and two spoons{names}o</s>"
    paper = rules(processor, inline=1)(grounded(), SETTINGS)
    names = "a<phrase>cup</phrase>#oand<phrase>two spoons</phrase>#o#o"
    assert shown(processor, paper) == f"<s><grounding>{names}o</s>"
    crop = read_picture(calm.parts[1].value.picture)
    assert np.array_equal(np.array(crop), pictures.coffee()[40:360, 60:360])


@pytest.mark.parametrize("inline", [0, 1])
def test_ids_are_those_of_the_same_prompt_at_inference(processor, inline):
    sample = rules(processor, inline=inline)(grounded(), SETTINGS)
    encoded = encode(sample, processor)
    prompt = [part.value for part in sample.parts[:-1]]
    ids = processor.encode_segments(prompt_segments(prompt))[0]
    assert encoded.input_ids[: len(ids)].tolist() == ids
    assert encoded.input_ids[len(ids)] == processor.tokenizer.token_to_id("[IMG]")
    assert bool(encoded.visual_targets_mask[len(ids) + 1])


def test_choices_depend_on_seed_epoch_source_and_id_alone(processor):
    lively = replace(rules(processor), varied=GenerationSettings(min_size=1))
    sample = grounded((MASK,))
    first = drawn(lively, sample, 12)
    assert first == drawn(replace(lively), sample, 12)
    assert len({repr(one.parts[:-1]) for one in first}) > 8
    for other in (replace(sample, id="y"), replace(sample, source="z")):
        assert drawn(lively, other, 12) != first
    assert drawn(replace(lively, seed=4), sample, 12) != first


KNOWN = [
    "<s><grounding>a<phrase>cup</phrase>oand<phrase>two spoons</phrase>#o</s>",
    "<s><grounding>a cup and two spoons<phrase>cup</phrase>#<phrase>two spoons</phrase>o</s>",
    "<s><grounding>a cup and two spoons#oo</s>",
]


def test_known_draws_stay_as_they_are(processor):
    """A resumed run of another version must see the same samples."""
    lively = rules(processor, drop_phrase=0.5, drop_box=0.5, drop_object=0.5, inline=0.5)
    assert [shown(processor, one) for one in drawn(lively, grounded(), 3)] == KNOWN


def share(samples, keep):
    return sum(keep(sample) for sample in samples) / len(samples)


def subjects(sample):
    return [part.value for part in sample.parts if part.kind == "subject"]


def test_things_are_dropped_at_their_rates(processor):
    samples = drawn(rules(processor, drop_phrase=0.2, drop_box=0.4, drop_object=0.6, max_subjects=9), grounded())
    cups = [found[0] for sample in samples if (found := [one for one in subjects(sample) if one.span == (2, 5)])]
    assert abs(len(cups) / DRAWS - (1 - 0.2 * 0.4 * 0.6)) < 0.05
    for name, rate in (("phrase", 0.2), ("box", 0.4), ("picture", 0.6)):
        assert abs(sum(getattr(cup, name) is None for cup in cups) / DRAWS + 0.048 - rate) < 0.1
    assert all(sample.grounding == any(one.box for one in subjects(sample)) for sample in samples)


def test_a_subject_of_which_no_text_speaks_keeps_something(processor):
    sample = Sample("x", (Part("subject", Subject("a cup", CUP, CAT)), Part("image", COFFEE, learn=True)), as_is=True)
    everything = rules(processor, drop_phrase=1, drop_box=1, drop_object=1)
    kept = [subjects(one)[0] for one in drawn(everything, sample, 60)]
    assert {(bool(one.phrase), bool(one.box), bool(one.picture)) for one in kept} == {
        (True, False, False), (False, True, False), (False, False, True)
    }  # fmt: skip
    assert shown(processor, everything(grounded(), SETTINGS)) == "<s>a cup and two spoonso</s>"


def test_no_more_subjects_than_wanted(processor):
    few = rules(processor, max_subjects=1)
    samples = drawn(few, grounded(), 60)
    assert all(len(subjects(sample)) == 1 for sample in samples)
    drawn_ones = {(subjects(sample)[0].phrase, subjects(sample)[0].box) for sample in samples}
    assert drawn_ones == {("cup", CUP), ("two spoons", SPOON), ("two spoons", CUP)}
    assert samples[0].notes == ("left out: 2 of 3 subjects",)


def test_backgrounds_and_crops(processor, tmp_path):
    CAT.save(tmp_path / "behind.png")
    always = rules(processor, random_background=1, random_crop=1, crop_shift=0.1, backgrounds=str(tmp_path))
    crops = [subjects(one)[0].picture for one in drawn(always, grounded((MASK,)))]
    behind = [crop.background for crop in crops]
    assert {(0, 0, 0), (255, 255, 255), str(tmp_path / "behind.png")} <= set(behind)
    assert sum(isinstance(one, int) for one in behind) > DRAWS / 10
    assert sum(isinstance(one, tuple) and one not in ((0,) * 3, (255,) * 3) for one in behind) > DRAWS / 10
    edges = np.array([crop.corners for crop in crops])
    moves = np.abs(edges - CUP) / (0.5, 0.8, 0.5, 0.8)
    assert moves.max() <= 0.1 + 1e-9 and moves.max(axis=0).min() > 0.08
    assert len({crop.picture().tobytes() for crop in crops[:8]}) == 8
    assert subjects(always(grounded(), SETTINGS))[0].picture.background is None  # no mask, no other background
    with pytest.raises(UserError, match="nowhere is no folder with pictures"):
        drawn(rules(processor, random_background=1, backgrounds="nowhere"), grounded((MASK,)), 1)


def test_the_target_must_not_be_small(processor):
    encode(rules(processor, min_size=400)(caption(), SETTINGS), processor)
    with pytest.raises(BadSample, match="600x400 pixels are too few .* each side needs 401"):
        encode(rules(processor, min_size=401)(caption(), SETTINGS), processor)
    own = replace(caption(), parts=(Part("image", CAT.resize((40, 40))), Part("text", "a cat")))
    with pytest.raises(BadSample, match=f"40x40 .* each side needs {processor.image_size}"):
        encode(rules(processor, min_size=None)(own, SETTINGS), processor)


def test_one_of_the_alternatives_is_drawn(processor):
    ways = [(Part("text", text), Part("image", COFFEE, learn=True)) for text in "abc"]
    sample = Sample("x", ways[0], as_is=True, alternatives=tuple(ways[1:]))
    texts = [one.parts[0].value for one in drawn(rules(processor), sample)]
    assert all(abs(texts.count(text) / DRAWS - 1 / 3) < 0.1 for text in "abc")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((Part("text", "hello"),), "0 pictures"),
        ((Part("image", CAT), Part("image", CAT), Part("text", "two")), "2 pictures, and none stands last"),
        ((Part("video", Video("v.mp4")), Part("text", "a video")), "a video is not drawn"),
        ((Part("image", CAT, "user"), Part("text", "a cat", "assistant")), "a conversation is not drawn"),
    ],
)
def test_samples_that_do_not_say_what_to_draw(processor, parts, message):
    with pytest.raises(BadSample, match=message):
        rules(processor)(Sample("x", parts), SETTINGS)


def test_an_interleaved_document_draws_its_last_picture(processor):
    document = Sample("x", (Part("text", "a cat"), Part("image", CAT), Part("text", "a cup"), Part("image", COFFEE)))
    assert shown(processor, rules(processor)(document, SETTINGS)) == "<s>a catoa cupo</s>"


def test_subjects_without_words_stand_behind_the_caption():
    cup, other = Part("subject", Subject("cup", span=(2, 5))), Part("subject", Subject("a hat"))
    parts = inlined([Part("text", "a cup here"), other, cup])
    assert [part.value if part.kind == "text" else part.value.phrase for part in parts] == [
        "a ",
        "cup",
        " here",
        "a hat",
    ]
    source = [Part("image", CAT), Part("text", "a cup here"), cup]
    assert inlined(source) == source


def test_a_run_draws_the_same_with_any_number_of_workers(processor, tmp_path):
    file = tmp_path / "drawn.jsonl"
    COFFEE.save(tmp_path / "coffee.png")
    box = ", ".join(map(str, CUP))
    file.write_text(f'{{"image": "coffee.png", "caption": "a cup", "noun_chunks": [[2, 5, {box}, 1]]}}\n' * 6)
    source = SourceSettings(str(file))
    lively = GenerationSettings(min_size=1)
    order, moving = GlobalOrder([6], None, 0), rules(processor, random_crop=1)
    dataset = SampleDataset([Source(source)], order, processor, 1024, moving)
    alone = [dataset[place].item for place in range(12)]
    again = [dataset[place].item for place in reversed(range(12))][::-1]
    spread = [draw.item for draw in DataLoader(dataset, None, sampler=range(12), num_workers=2)]
    for other in (again, spread):
        assert all(one.pixel_values.equal(two.pixel_values) for one, two in zip(alone, other, strict=True))
    assert len({one.pixel_values.numpy().tobytes() for one in alone}) == 12
    module = GenerationDataModule([source], processor, generation=lively)
    assert isinstance(module._rules(0), GenerationRules) and module._rules(0).varied == lively
    assert GenerationDataModule([source], processor).generation == GenerationSettings()
    assert not isinstance(ChatDataModule([source], processor)._rules(0), GenerationRules)
    report = check([source], processor, generation=replace(lively, drop_box=0))
    assert report.good == 6 and report.learned_tokens == 6 * (processor.n_query + 2)
    report = check([source], processor, generation=GenerationSettings(min_size=401))
    assert len(report.bad) == 6 and report.bad[0]["reason"].endswith("min_size)")
