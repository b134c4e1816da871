"""The construction rules: which pictures and sentences a document keeps, and in which order."""

import json
from dataclasses import replace
from random import Random

import lightning
import pytest
import torch
from PIL import Image
from skimage import data as pictures

from datamodules.chat import ChatDataModule
from datamodules.dataset import SampleDataset
from datamodules.documents import DocumentRules, arrange, draw_pictures, fitting
from datamodules.order import GlobalOrder
from datamodules.sources import Source
from emu2_lit.model.objective import unified_targets
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.render import marked
from emu2_lit.samples.sample import BadSample, Box, Part, Sample, Video
from emu2_lit.settings import SourceSettings
from tests.datamodules.test_chat import Recorder

CAT = Image.fromarray(pictures.chelsea()).resize((32, 32))
SETTINGS = SourceSettings("documents.jsonl")
DRAWS = 400
DEVIATION = 0.1  # four standard deviations of a share of DRAWS draws


@pytest.fixture
def rules(processor):
    return DocumentRules(processor, max_length=1024, seed=3, learn_pictures=True)


def document(*groups, id="doc", **options):
    """Each group a row of texts, and of pictures given as numbers: frames[0].size tells them apart."""
    parts = (part(value, place) for place, group in enumerate(groups) for value in group)
    return Sample(id, tuple(parts), **options)


def part(value, group):
    if isinstance(value, str):
        return Part("text", value, learn=True, group=group)
    return Part("image", CAT.resize((value + 8, 8)), group=group)


def names(sample):
    """The texts, and the numbers of the pictures."""
    return [part.value.size[0] - 8 if part.kind == "image" else part.value for part in sample.parts]


def many(pictures=12, plain=3):
    """Sentences with a picture each, and plain ones between."""
    groups = []
    for number in range(pictures):
        groups += [(number, f"picture {number}. "), *[(f"plain {number} {other}. ",) for other in range(plain)]]
    return document(*groups)


def share(outcomes):
    outcomes = list(outcomes)
    return sum(outcomes) / len(outcomes)


def test_the_same_draw_gives_the_same_document(rules):
    sample, short = many(), replace(SETTINGS, max_length=400)
    again = DocumentRules(rules.processor, 1024, 3, True)
    for epoch in range(5):
        assert rules(sample, short, epoch) == again(sample, short, epoch)
    drawn = [names(rules(sample, short, epoch)) for epoch in range(5)]
    assert all(one != other for one, other in zip(drawn, drawn[1:], strict=False))
    for other in (replace(sample, id="x"), replace(sample, source="x")):
        assert names(rules(other, short, 0)) != drawn[0]
    assert names(replace(rules, seed=4)(sample, short, 0)) != drawn[0]


def test_known_draws_stay_as_they_are(rules):
    """A resumed run of another version must see the same documents."""
    sample = document((0, "a "), (1, "b "), (2, "c "), (3, "d "))
    two = replace(SETTINGS, max_images=2)
    assert names(rules(sample, two, 0)) == ["a ", "b ", 1, "c ", 2, "d "]


def test_chats_and_what_an_importer_fixed_stay_as_they_are(rules, tmp_path):
    chat = Sample("x", (Part("text", "Q", "user"), Part("image", CAT, "user"), Part("text", "A", "assistant", True)))
    pairs = [{"image": "a.png", "name": "dax"}] * 12
    (tmp_path / "episodes.jsonl").write_text(json.dumps({"support": pairs, "query": pairs[0]}))
    episode = Source(SourceSettings(str(tmp_path / "episodes.jsonl")))[0]
    for sample in (chat, episode):
        assert rules(sample, replace(SETTINGS, max_images=1, image_first=0.0)) is sample


@pytest.mark.parametrize("image_first", [0.0, 0.3, 0.5, 1.0])
def test_pictures_stand_before_their_text_as_often_as_asked(rules, image_first):
    sample = document((0, "a cat"))
    settings = replace(SETTINGS, image_first=image_first)
    drawn = [names(rules(sample, settings, epoch)) for epoch in range(DRAWS)]
    assert all(found in ([0, "a cat"], ["a cat", 0]) for found in drawn)
    assert share(found[0] == 0 for found in drawn) == pytest.approx(
        image_first, abs=DEVIATION if 0 < image_first < 1 else 0
    )


def test_each_picture_of_a_document_chooses_for_itself(rules):
    sample = document((0, "a "), (1, "b "))
    drawn = [names(rules(sample, SETTINGS, epoch)) for epoch in range(DRAWS)]
    both = [(found.index(0) < found.index("a "), found.index(1) < found.index("b ")) for found in drawn]
    for outcome in ((True, True), (True, False), (False, True), (False, False)):
        assert share(one == outcome for one in both) == pytest.approx(0.25, abs=DEVIATION)
    assert all(max(map(found.index, (0, "a "))) < min(map(found.index, (1, "b "))) for found in drawn)


def test_text_alone_is_learned_behind_its_picture(processor):
    rules = DocumentRules(processor, 1024, seed=3)
    sample = document(("the end", 0), ("a video",))
    for epoch in range(20):
        found = rules(sample, SETTINGS, epoch)
        assert names(found) == [0, "the end", "a video"]
        assert [part.learn for part in found.parts] == [False, True, True]


def test_pictures_are_drawn_with_their_sentences(rules):
    sample = many(pictures=12, plain=0)
    seen = []
    for epoch in range(DRAWS):
        found = names(rules(sample, SETTINGS, epoch))
        kept = [value for value in found if isinstance(value, int)]
        assert len(kept) == 8 and kept == sorted(kept)
        for number in kept:  # it stands beside its own sentence
            assert f"picture {number}. " in found[max(found.index(number) - 1, 0) : found.index(number) + 2]
        seen += kept
    for number in range(12):
        assert seen.count(number) / DRAWS == pytest.approx(8 / 12, abs=DEVIATION)


def test_fewer_pictures_are_all_kept():
    groups = [(part(0, 0), part(1, 0), part("a", 0)), (part(2, 1),)]
    assert draw_pictures(groups, 3, Random(0)) == groups
    left = draw_pictures(groups, 1, Random(0))
    assert sum(part.kind == "image" for group in left for part in group) == 1 and all(left)


@pytest.mark.parametrize("limit", [40, 90, 200, 300, 1024])
def test_documents_fit_without_a_cut(rules, limit):
    sample, settings = many(), replace(SETTINGS, max_length=limit)
    for epoch in range(10):
        found = rules(sample, settings, epoch)
        assert set(names(found)) <= set(names(sample))
        encoded = encode(found, rules.processor, limit)
        slots = int((encoded.input_ids == rules.processor.tokenizer.token_to_id("<image>")).sum())
        assert slots == len(encoded.pixel_values) * rules.processor.n_query


def test_the_nearest_sentences_fill_the_length(rules):
    sample, settings = many(pictures=3, plain=9), replace(SETTINGS, max_images=1)
    whole = len(encode(sample, rules.processor).input_ids)
    for epoch in range(10):
        found = names(rules(sample, replace(settings, max_length=whole // 3), epoch))
        picture = next(value for value in found if isinstance(value, int))
        texts = [value for value in names(sample) if isinstance(value, str)]
        kept = [texts.index(value) for value in found if isinstance(value, str)]
        assert kept == list(range(kept[0], kept[-1] + 1)) and len(kept) > 3  # one stretch
        middle = texts.index(f"picture {picture}. ")
        assert kept[0] in (0, middle - len(kept) // 2, middle - (len(kept) - 1) // 2) or kept[-1] == len(texts) - 1


def test_a_text_alone_is_a_stretch_from_anywhere(rules):
    sentences = [f"sentence number {number}. " for number in range(40)]
    sample, starts = document(*[(text,) for text in sentences]), []
    for epoch in range(60):
        found = names(rules(sample, replace(SETTINGS, max_length=120), epoch))
        start = sentences.index(found[0])
        assert found == sentences[start : start + len(found)] and len(found) >= 5
        starts.append(start)
    assert min(starts) == 0 and max(starts) > 25 and len(set(starts)) > 15
    assert names(rules(sample, SETTINGS)) == sentences


def test_a_sentence_that_is_too_long_is_left_out_and_nothing_but_it_is_bad(rules):
    sample = document((0, "word " * 90), (1, "a cat"))
    assert set(names(rules(sample, replace(SETTINGS, max_length=64)))) == {1, "a cat"}
    with pytest.raises(BadSample, match="tokens are more than max_length 8, and no sentence can be dropped"):
        rules(sample, replace(SETTINGS, max_length=8))
    with pytest.raises(BadSample, match="max_length 32"):  # the run's own limit is the lower one
        replace(rules, max_length=32)(document((0, "word " * 90)), replace(SETTINGS, max_length=1024))


def test_lengths_are_checked_on_the_whole():
    """Neighbours that take more together than each alone do not break the limit."""
    groups = [(part(str(number), number),) for number in range(6)]

    def length(some):
        return 2 + 10 * len(some) + 4 * max(len(some) - 1, 0)

    for seed in range(10):
        assert len(fitting(groups, 52, length, Random(seed))) == 3
    assert fitting(groups, 100, length, Random(0)) == list(range(6))


@pytest.mark.parametrize("phrase_first", [0.0, 0.7, 1.0])
def test_phrases_stand_before_their_box_as_often_as_asked(rules, phrase_first):
    boxes = (Part("box", Box("a dog", ((0, 0, 1, 1),)), learn=True), Part("box", Box(None, (0, 0, 1, 1)), learn=True))
    sample = Sample("x", (Part("image", CAT), *boxes), grounding=True)
    drawn = []
    for epoch in range(DRAWS):
        found = rules(sample, replace(SETTINGS, phrase_first=phrase_first, image_first=1.0), epoch)
        text = marked(encode(found, rules.processor), rules.processor)
        before, behind = "<grounding><phrase>a dog</phrase><object>", "</object><phrase>a dog</phrase><object>"
        assert (before in text) != (behind in text) and text.count("<grounding>") == 1
        drawn.append(before in text)
    assert share(drawn) == pytest.approx(phrase_first, abs=DEVIATION if 0 < phrase_first < 1 else 0)


def test_frames_are_drawn_at_random(rules):
    frames = tuple(CAT.resize((number + 8, 8)) for number in range(30))
    sample = Sample("x", (Part("video", Video(frames, 8)), Part("text", "a cat", learn=True)))
    seeds = {
        next(p.value.seed for p in rules(sample, SETTINGS, epoch).parts if p.kind == "video") for epoch in range(20)
    }
    assert len(seeds) == 20 and None not in seeds
    encoded = [encode(rules(sample, SETTINGS, 1), rules.processor).video_pixel_values for _ in range(2)]
    assert torch.equal(*encoded) and len(encoded[0]) == 8


def test_everything_is_learned_that_the_objective_names(rules):
    """Labels made with the sample are those that the objective reads off its ids."""
    frames = Video((CAT, CAT, CAT), 2)
    parts = (
        Part("image", CAT), Part("text", "a cat and ", learn=True), Part("box", Box("a dog", (0, 0, 1, 1)), learn=True),
        Part("video", frames, group=1), Part("text", "it runs.", learn=True, group=1),
    )  # fmt: skip
    for epoch in range(8):
        encoded = encode(rules(Sample("x", parts, grounding=True), SETTINGS, epoch), rules.processor)
        ids = encoded.input_ids[None]
        special = rules.processor.tokenizer.special_ids
        labels, slots = unified_targets(ids, torch.ones_like(ids), special)
        assert torch.equal(encoded.labels, labels[0]) and torch.equal(encoded.visual_targets_mask, slots[0])


def test_what_is_left_out_is_noted(rules):
    found = rules(many(pictures=10, plain=0), replace(SETTINGS, max_images=8))
    assert found.notes == ("left out: 2 of 10 pictures",)
    found = rules(document(("a. ",), ("b " * 90,)), replace(SETTINGS, max_length=20))
    assert found.notes == ("left out: 1 of 2 texts",)


def test_arranging_keeps_the_order_within_each_side():
    group = (part(0, 0), part(1, 0), part("a", 0), part("b", 0), part(2, 0))
    for seed in range(20):
        found = names(Sample("x", arrange(group, 0.5, 0.7, Random(seed))))
        text = found.index("a")
        assert found[text + 1] == "b"
        assert found[:text] == sorted(found[:text]) and found[text + 2 :] == sorted(found[text + 2 :])


@pytest.fixture
def obelics(tmp_path):
    """A file of twelve documents of four pictures each."""
    CAT.save(tmp_path / "cat.png")
    with open(tmp_path / "docs.jsonl", "w") as file:
        for number in range(12):
            texts = [None if place % 2 else f"Text {number} {place}. And more." for place in range(8)]
            images = ["cat.png" if place % 2 else None for place in range(8)]
            file.write(json.dumps({"images": images, "texts": texts}) + "\n")
    return str(tmp_path / "docs.jsonl")


def test_a_dataset_draws_anew_in_every_epoch(rules, obelics):
    source = Source(SourceSettings(obelics, max_images=2))
    dataset = SampleDataset([source], GlobalOrder([12]), rules.processor, 1024, rules)
    first = {dataset[place].item.sample_id: dataset[place].item for place in range(12)}
    second = {dataset[place].item.sample_id: dataset[place].item for place in range(12, 24)}
    changed = [first[id].input_ids.tolist() != second[id].input_ids.tolist() for id in first]
    assert first.keys() == second.keys() and sum(changed) >= 10
    assert all(item.visual_targets_mask.sum() == 2 * rules.processor.n_query for item in first.values())


class Documents(Recorder):
    """Notes the documents as they are learned."""

    def training_step(self, batch, index):
        self.trained.append((batch["sample_ids"], batch["input_ids"].tolist(), batch["visual_targets_mask"].tolist()))
        return self.weight.sum()


def fit(processor, obelics, folder, max_steps, checkpoint=None, workers=0):
    data = ChatDataModule(
        [SourceSettings(obelics, max_images=2)], processor, [SourceSettings(obelics)], micro_batch_size=3, seed=5,
        workers=workers, learn_pictures=True,
    )  # fmt: skip
    trainer = lightning.Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    recorder = Documents()
    trainer.fit(recorder, data, ckpt_path=checkpoint, weights_only=False)
    trainer.save_checkpoint(folder / f"{max_steps}.ckpt")
    return recorder.trained


def test_a_resume_and_workers_change_no_document(processor, obelics, tmp_path):
    whole = fit(processor, obelics, tmp_path, 8)
    assert fit(processor, obelics, tmp_path, 8, workers=2) == whole
    first = fit(processor, obelics, tmp_path, 3)
    assert first + fit(processor, obelics, tmp_path, 8, tmp_path / "3.ckpt", workers=1) == whole
