from dataclasses import replace

import pytest

from emu2_lit.errors import UserError
from emu2_lit.model.chat_template import SYSTEM_MESSAGES, Turn, chat_segments, messages_to_turns
from emu2_lit.model.segments import Segment, render
from tests.golden_data import FOLDER
from tests.model.processor_cases import both, golden_processor, recorded, tiny_processor

IMAGE = {"type": "image"}


def text(value):
    return {"type": "text", "text": value}


CONVERSATION = [
    {"role": "user", "content": [IMAGE, text("what color is this?")]},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": [text("describe the image"), IMAGE]},
]
VIDEO = [{"role": "user", "content": [{"type": "video", "num_frames": 2}, text("what is the man standing on?")]}]
COMPREHENSIVE, CONCISE = SYSTEM_MESSAGES["comprehensive"], SYSTEM_MESSAGES["concise"]


def prompt(messages, **kwargs):
    return render(chat_segments(messages_to_turns(messages), **kwargs))


# -- the reference -------------------------------------------------------------------------------------------
@both
@pytest.mark.parametrize(
    ("key", "messages", "images", "frames"), [("chat_prompt", CONVERSATION, 2, 0), ("video_prompt", VIDEO, 0, 2)]
)
def test_recorded_prompts_and_their_ids(name, key, messages, images, frames):
    processor, expected = golden_processor(name), recorded(name, "expected.json")
    string = processor.apply_chat_template(messages)
    assert string == expected[key]
    picture = FOLDER / name / "image_0.png"
    batch = processor(text=[string], images=[picture] * images, videos=[[picture] * frames])
    assert batch["input_ids"][0].tolist() == expected[f"{key}_ids"]


@both
def test_recorded_grounding_prompt(name):
    processor, expected = golden_processor(name), recorded(name, "expected.json")
    string = processor.apply_chat_template(CONVERSATION, grounding=True)
    assert string == expected["chat_prompt_grounding"]
    ids = processor(text=[string], images=[FOLDER / name / "image_0.png"] * 2)["input_ids"][0]
    assert ids[-1] == expected["special_ids"]["<grounding>"]


def test_recorded_labels_of_a_conversation():
    processor, expected = golden_processor("chat"), recorded("chat", "expected_objective.json")["chat"]
    answer = {"role": "assistant", "content": "a dog sitting on the grass."}
    segments = chat_segments(messages_to_turns([*CONVERSATION, answer], learn_answers=True))
    ids, learned = processor.encode_segments(segments)
    assert render(segments) == expected["text"]
    assert ids == expected["input_ids"][0]
    assert [i if learn else -100 for i, learn in zip(ids, learned, strict=True)] == expected["labels"][0]
    targets = [i for i, learn in zip(ids, learned, strict=True) if learn]
    assert processor.decode(targets, skip_special_tokens=False) == expected["decoded_targets"]


# -- the template --------------------------------------------------------------------------------------------
def test_a_given_system_message_replaces_the_default():
    question = {"role": "user", "content": "hi"}
    assert prompt([question]) == f"{COMPREHENSIVE} [USER]: hi [ASSISTANT]:"
    assert prompt([question], grounding=True) == f"{CONCISE} [USER]: hi [ASSISTANT]:<grounding>"
    assert prompt([{"role": "system", "content": "Be kind."}, question]) == "Be kind. [USER]: hi [ASSISTANT]:"
    ids = tiny_processor().encode_segments
    empty = ids(chat_segments(messages_to_turns([{"role": "system", "content": ""}, question])))
    assert empty == ids(chat_segments([Turn("system", []), *messages_to_turns([question])]))


def test_only_learned_answers_are_learned():
    turns = messages_to_turns([*CONVERSATION, {"role": "assistant", "content": "a dog"}])
    last = Turn("assistant", [replace(segment, learn=True) for segment in turns[-1].segments])
    ids, learned = tiny_processor().encode_segments(chat_segments([*turns[:-1], last]))
    targets = [i for i, learn in zip(ids, learned, strict=True) if learn]
    assert tiny_processor().decode(targets, skip_special_tokens=False) == " a dog</s>"
    assert not any(tiny_processor().encode_segments(chat_segments(turns))[1])


def test_grounding_stands_before_the_last_answer_and_is_not_learned():
    answered = [CONVERSATION[0], {"role": "assistant", "content": "a dog"}]
    segments = chat_segments(messages_to_turns(answered, learn_answers=True), grounding=True)
    assert render(segments).endswith("[ASSISTANT]:<grounding> a dog</s>")
    assert [segment.text for segment in segments if segment.learn] == [" ", "a dog", "</s>"]


@pytest.mark.parametrize(
    ("roles", "place"),
    [(["assistant"], 1), (["user", "user"], 2), (["user", "assistant", "system"], 3), (["user", "system"], 2)],
)
def test_turns_that_do_not_alternate(roles, place):
    with pytest.raises(UserError, match=f"turn {place} "):
        prompt([{"role": role, "content": "a"} for role in roles])


# -- messages ------------------------------------------------------------------------------------------------
def test_every_form_of_a_picture_and_a_video():
    content = [
        IMAGE,
        {"type": "image", "image": "a.png"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        {"type": "video", "video": ["0.png", "1.png"]},
        {"type": "video", "frames": 1},
        text("so?"),
    ]
    kinds = [segment.kind for segment in messages_to_turns([{"role": "user", "content": content}])[0].segments]
    assert kinds == ["image"] * 3 + ["token", "frame", "frame"] + ["token", "frame"] + ["text"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "robot", "content": "a"}, "message 1: role 'robot' is none of system, user, assistant"),
        ({"content": "a"}, "message 1: role None"),
        ({"role": "user", "content": [{"type": "audio"}]}, "message 1: a part of type 'audio'"),
        ({"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, "message 1: a video part needs"),
        ({"role": "user", "content": [{"type": "text"}]}, "message 1: a text part without its `text`"),
        ({"role": "user", "content": ["hi"]}, "message 1: content is neither"),
        ({"role": "user", "content": 7}, "message 1: content is neither"),
    ],
)
def test_messages_that_cannot_be_read(message, reason):
    with pytest.raises(UserError, match=reason):
        messages_to_turns([message])


def test_an_answer_without_content_is_empty():
    assert messages_to_turns([{"role": "assistant", "content": None}])[0].segments in ([], [Segment("text", "")])
