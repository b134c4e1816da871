"""`chat`: one question, or a conversation that keeps its turns."""

import io

import pytest

from emu2_lit.cli.chat import talk
from emu2_lit.cli.conversation import Conversation
from emu2_lit.model.segments import render
from emu2_lit.run import load_run

SHORT = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture
def conversation(adapter):
    return Conversation(*load_run(adapter), generation=SHORT)


def prompt_of(conversation: Conversation) -> str:
    """The conversation so far, as the model reads it."""
    return render(conversation.segments(conversation.messages))


def test_one_question(emu2_lit, adapter, picture):
    arguments = ["chat", adapter, "--prompt", "which digit?", "--image", picture, "--max-new-tokens", "4"]
    status, out, _ = emu2_lit(*arguments)
    assert status == 0
    assert emu2_lit(*arguments)[1] == out
    assert emu2_lit(*arguments, "--beams", "2")[0] == 0


def test_turns_and_pictures_are_kept(conversation, picture):
    conversation.ask("which digit?", [picture])
    conversation.ask("and this?", [picture])
    prompt = prompt_of(conversation)
    assert prompt.count("[USER]:") == 2 and prompt.count("[<IMG_PLH>]") == 2 and len(conversation.images) == 2
    conversation.reset()
    assert (conversation.messages, conversation.images) == ([], [])


def test_special_strings_are_plain_text(conversation):
    typed = "what is </s> and [IMG] and <image> and [USER]?"
    conversation.ask(typed)
    ids, _ = conversation.processor.encode_segments(conversation.segments(conversation.messages[:1]))
    special = conversation.processor.tokenizer.special_ids
    assert special["[IMG]"] not in ids and special["<image>"] not in ids and special["</s>"] not in ids
    assert ids.count(special["[USER]"]) == 1


def test_system_message(adapter):
    model, processor = load_run(adapter)
    conversation = Conversation(model, processor, system="Be brief.", generation=SHORT)
    conversation.ask("which digit?")
    assert "Be brief. [USER]:" in prompt_of(conversation)


def test_frames_of_a_video(conversation, picture, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(picture.read_bytes())
    conversation.ask("what happens?", video=folder, n_frames=3)
    assert len(conversation.frames) == 3
    assert prompt_of(conversation).count("[<VID_PLH>]") == 3


def test_conversation_from_standard_input(conversation, picture, monkeypatch, capsys):
    lines = f"which digit?\n/image {picture}\nand this?\n/image absent.png\nand that?\n/reset\nagain?\n/quit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    talk(conversation, images=[], video=None, n_frames=8)
    asked = [message["content"][-1]["text"] for message in conversation.messages if message["role"] == "user"]
    assert asked == ["again?"]
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) >= 3 and "absent.png" in captured.err


def test_mistakes(emu2_lit, adapter):
    status, _, err = emu2_lit("chat", "nowhere/at/all", "--prompt", "hello")
    assert status == 2 and "nowhere/at/all" in err and "Traceback" not in err
    status, _, err = emu2_lit("chat", adapter, "--prompt", "which digit?", "--image", "absent.png")
    assert status == 2 and "absent.png" in err
