import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.samples.encoding import encode, prompt, to_segments
from emu2_lit.samples.render import marked, spans
from emu2_lit.samples.sample import BadSample, Box, FileSlice, Part, Sample, Video

GOLDEN = Path(__file__).parents[1] / "golden" / "chat"


@pytest.fixture(scope="module")
def processor():
    return Emu2Processor.for_config(Emu2Config.preset("tiny")).with_role_tokens()


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


def user(*values):
    return tuple(v if isinstance(v, Part) else Part("text", v, "user") for v in values)


def answer(text, learn=True):
    return (Part("text", text, "assistant", learn),)


def image(value, role="user", learn=False):
    return Part("image", value, role, learn)


def learned_text(encoded, processor):
    return [text for text, learned in spans(encoded, processor) if learned]


def test_golden_conversation_gives_golden_ids_and_labels():
    golden = json.loads((GOLDEN / "expected_objective.json").read_text())["chat"]
    vision = json.loads((GOLDEN / "expected.json").read_text())["vision"]
    config = Emu2Config(
        text_config={"vocab_size": 694},
        base_vocab_size=420,
        n_query=vision["n_query"],
        v_query=vision["v_query"],
    )
    tokenizer = GOLDEN / "tokenizer_dir" / "tokenizer.model"
    processor = Emu2Processor.from_sentencepiece(tokenizer, config=config, chat=True)
    sample = Sample(
        "golden",
        (
            *user(image(GOLDEN / "image_0.png"), "what color is this?"),
            *answer(golden["answers"][0]),
            *user("describe the image", image(GOLDEN / "image_1.png")),
            *answer(golden["answers"][1]),
        ),
    )
    encoded = encode(sample, processor)
    assert [encoded.input_ids.tolist()] == golden["input_ids"]
    assert [encoded.labels.tolist()] == golden["labels"]
    assert len(encoded.pixel_values) == 2 and not encoded.visual_targets_mask.any()


def test_learned_tokens_are_the_answers_and_their_end(processor):
    sample = Sample("x", user("which digit?") + answer("seven") + user("even or odd?") + answer("odd"))
    assert learned_text(encode(sample, processor), processor) == [" seven</s>", " odd</s>"]


def test_an_answer_may_be_left_unlearned(processor):
    sample = Sample("x", user("a?") + answer("seven", learn=False) + user("b?") + answer("odd"))
    assert learned_text(encode(sample, processor), processor) == [" odd</s>"]


def test_ids_are_those_that_inference_sees(processor, picture):
    sample = Sample("x", user(image(picture), "\nwhich digit is written here?") + answer("seven"))
    question, _ = prompt(sample)
    generation = encode(question, processor, for_generation=True)
    content = [{"type": "image"}, {"type": "text", "text": "\nwhich digit is written here?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    assert generation.input_ids.tolist() == processor(text=[text], images=[picture])["input_ids"][0].tolist()
    assert (generation.labels == -100).all()
    trained = encode(sample, processor)
    assert trained.input_ids[: len(generation.input_ids)].tolist() == generation.input_ids.tolist()


@pytest.mark.parametrize("text", ["</s>", "[IMG]", "<image>", "[<IMG_PLH>]", "[USER]:", "<patch_index_0001>"])
def test_special_strings_in_a_text_are_plain_text(processor, text):
    encoded = encode(Sample("x", user(f"what is {text} here?") + answer(f"it is {text} ok")), processor)
    clean = encode(Sample("x", user("what is here?") + answer("it is ok")), processor)
    special = set(processor.tokenizer.special_ids.values())

    def specials(ids):
        return [id for id in ids.tolist() if id in special]

    assert specials(encoded.input_ids) == specials(clean.input_ids)
    assert encoded.pixel_values is None
    assert text in marked(encoded, processor)


def test_document_learns_caption_and_end(processor, picture):
    sample = Sample("x", (image(picture, "none"), Part("text", "a handwritten seven", learn=True)))
    encoded = encode(sample, processor)
    assert "".join(learned_text(encoded, processor)).strip() == "a handwritten seven</s>"
    assert encoded.input_ids[-1] == processor.tokenizer.eos_id
    assert encoded.pixel_values.shape == (1, 3, processor.image_size, processor.image_size)


def test_learned_image_gives_visual_targets_and_not_text_labels(processor, picture):
    sample = Sample("x", (Part("text", "a seven", learn=True), image(picture, "none", learn=True)))
    encoded = encode(sample, processor)
    slots = encoded.input_ids == processor.tokenizer.token_to_id("<image>")
    assert torch.equal(encoded.visual_targets_mask, slots) and int(slots.sum()) == processor.n_query
    assert (encoded.labels[slots] == -100).all()
    opening, closing = (processor.tokenizer.token_to_id(name) for name in ("[IMG]", "[/IMG]"))
    assert opening in encoded.labels.tolist() and closing not in encoded.labels.tolist()


def test_truncation_drops_whole_trailing_turns_and_their_images(processor, picture, tmp_path):
    turns = [user(image(picture), "which digit?") + answer("seven") for _ in range(3)]
    turns.append(user(image(str(tmp_path / "gone.png")), "which digit?") + answer("odd"))
    whole = [encode(Sample("x", sum(turns[: n + 1], ())), processor) for n in range(3)]
    for limit in range(len(whole[0].input_ids), len(whole[2].input_ids) + 3):
        encoded = encode(Sample("x", sum(turns, ())), processor, max_length=limit)
        expected = max((w for w in whole if len(w.input_ids) <= limit), key=lambda w: len(w.input_ids))
        assert encoded.input_ids.tolist() == expected.input_ids.tolist()
        assert encoded.labels.tolist() == expected.labels.tolist()
        assert len(encoded.pixel_values) == len(expected.pixel_values)
        assert encoded.dropped_tokens > 0


def test_what_does_not_fit_is_bad(processor, picture):
    chat = Sample("x", user(image(picture), "which digit?") + answer("seven"))
    length = len(encode(chat, processor).input_ids)
    for limit in range(1, length):
        with pytest.raises(BadSample, match=f"{length} tokens are more than max_length {limit}"):
            encode(chat, processor, max_length=limit)
    caption = Sample("x", (image(picture, "none"), Part("text", "a seven", learn=True)))
    with pytest.raises(BadSample, match="more than max_length 3"):
        encode(caption, processor, max_length=3)
    unlearned = Sample("x", user("a?") + answer("b", learn=False) + user("c?") + answer("seven"))
    with pytest.raises(BadSample, match="nothing to learn within"):
        encode(unlearned, processor, max_length=len(encode(unlearned, processor).input_ids) - 1)


def test_nothing_learned_is_bad(processor):
    with pytest.raises(BadSample, match="nothing to learn"):
        encode(Sample("x", user("a?") + answer("b", learn=False)), processor)


def test_pictures_that_cannot_be_read_are_bad_and_named(processor, tmp_path, picture):
    data = Path(picture).read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:40])
    (tmp_path / "text.png").write_text("no picture")
    for value in (tmp_path / "cut.png", tmp_path / "text.png", tmp_path / "missing.png"):
        with pytest.raises(BadSample, match=value.name):
            encode(Sample("x", user(image(str(value)), "a?") + answer("b")), processor)


def test_pictures_inside_files_are_read_by_offset(processor, tmp_path, picture):
    data = Path(picture).read_bytes()
    (tmp_path / "s.tar").write_bytes(b"x" * 100 + data)
    inside = FileSlice(str(tmp_path / "s.tar"), 100, len(data), "k.png")
    both = [encode(Sample("x", user(image(v), "a?") + answer("b")), processor) for v in (inside, picture)]
    assert torch.equal(both[0].pixel_values, both[1].pixel_values)
    beyond = FileSlice(str(tmp_path / "s.tar"), 100, len(data) + 9, "k.png")
    with pytest.raises(BadSample, match=r"k\.png in .*s\.tar is truncated"):
        encode(Sample("x", user(image(beyond), "a?") + answer("b")), processor)


def test_video_frames_follow_the_video_token(processor, picture):
    video = Part("video", Video((picture,) * 5, num_frames=3), "user")
    encoded = encode(Sample("x", user(video, "what?") + answer("seven")), processor)
    tokenizer = processor.tokenizer
    ids = encoded.input_ids.tolist()
    assert ids.count(tokenizer.token_to_id("[VIDEO]")) == 1
    assert ids.count(tokenizer.token_to_id("[gIMG]")) == 3 * processor.v_query
    assert len(encoded.video_pixel_values) == 3 and encoded.pixel_values is None


def test_boxes_become_location_tokens_and_ask_for_grounding(processor, picture):
    box = Part("box", Box("the dog", (0.0, 0.5, 1.0, 1.0)), "assistant", True)
    sample = Sample("x", (*user(image(picture), "where?"), box), grounding=True)
    text = learned_text(encode(sample, processor), processor)[-1]
    assert "<patch_index_0000><patch_index_0112><patch_index_0224><patch_index_0224>" in text
    assert text.endswith("</object></s>")
    assert any(segment.text == "<grounding>" for segment in to_segments(sample))


def test_prompt_takes_off_the_last_answer():
    sample = Sample("x", user("a?") + answer("one") + user("b?") + answer(" two "))
    shorter, text = prompt(sample)
    assert text == "two" and shorter.parts == sample.parts[:-1]
    with pytest.raises(BadSample, match="does not end in an answer"):
        prompt(shorter)


def test_rendering_marks_what_is_learned(processor, picture):
    sample = Sample("x", user(image(picture), "which digit?") + answer("seven"))
    text = marked(encode(sample, processor), processor)
    assert text.endswith("[ASSISTANT]:⟦ seven</s>⟧")
    assert f"[IMG]<image>*{processor.n_query}[/IMG]" in text


def test_learned_frames_are_regressed_like_pictures(processor, picture):
    video = Part("video", Video((picture,) * 5, num_frames=3), learn=True)
    encoded = encode(Sample("x", (Part("text", "it turns", learn=True), video)), processor)
    slots = encoded.input_ids == processor.tokenizer.token_to_id("[gIMG]")
    assert torch.equal(encoded.visual_targets_mask, slots) and int(slots.sum()) == 3 * processor.v_query
    assert (encoded.labels[slots] == -100).all()
    labels = encoded.labels.tolist()
    assert labels.count(processor.tokenizer.token_to_id("[VIDEO]")) == 1
    assert labels.count(processor.tokenizer.token_to_id("[IMG]")) == 3
    assert processor.tokenizer.token_to_id("[/IMG]") not in labels


def test_the_network_regresses_stills_and_frames(processor, picture):
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny").with_role_tokens()).eval()
    video = Part("video", Video((picture,) * 2, num_frames=2), learn=True)
    encoded = encode(Sample("x", (image(picture, "none", learn=True), video)), processor)
    inputs = dict(input_ids=encoded.input_ids[None], pixel_values=encoded.pixel_values)
    with torch.no_grad():
        out = model(
            **inputs, video_pixel_values=encoded.video_pixel_values, labels=encoded.labels[None],
            visual_targets_mask=encoded.visual_targets_mask[None],
        )  # fmt: skip
        stills = model.encode_image(encoded.pixel_values, processor.n_query).flatten(0, 1)
        frames = model.encode_image(encoded.video_pixel_values, processor.v_query).flatten(0, 1)
    targets = torch.cat([stills, frames])
    assert int(out.visual_targets) == len(targets) == processor.n_query + 2 * processor.v_query
    torch.testing.assert_close(out.visual_loss, (out.regression - targets).square().mean())


def test_a_document_with_boxes_is_marked_before_its_text(processor, picture):
    boxes = (Box("a dog", ((0, 0, 1, 1), (0, 0, 0.5, 0.5)), False), Box("it", (0, 0, 1, 1)))
    parts = (image(picture, "none"), *(Part("box", box, learn=True) for box in boxes))
    text = marked(encode(Sample("x", parts, grounding=True), processor), processor)
    assert text.count("<grounding>") == 1 and "[/IMG]⟦<grounding><object>" in text
    assert "</delimiter_of_multi_objects/>" in text and "</object><phrase>a dog</phrase><phrase>it</phrase>" in text
    assert "<grounding>" not in marked(encode(Sample("x", parts), processor), processor)


def test_a_video_with_a_seed_gives_other_frames(processor, tmp_path):
    for number in range(20):
        Image.new("L", (4, 4), 10 * number).save(tmp_path / f"{number}.png")
    even, drawn, again = (
        encode(Sample("x", (Part("video", Video(str(tmp_path), 4, seed), learn=True),)), processor).video_pixel_values
        for seed in (None, 1, 1)
    )
    assert torch.equal(drawn, again) and not torch.equal(even, drawn)
    assert drawn.float().mean((1, 2, 3)).tolist() == sorted(drawn.float().mean((1, 2, 3)).tolist())
