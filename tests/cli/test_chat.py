"""`chat`: one question, or a conversation that keeps its turns."""

import io

import pytest

from emu2_lit.cli.chat import talk
from emu2_lit.cli.conversation import Conversation
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
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


def test_commands_that_are_mistaken_cost_a_line(conversation, picture, monkeypatch, capsys):
    apostrophe = picture.with_name("it's.png")
    picture.rename(apostrophe)
    lines = f"/image it's gone.png\n/imge {apostrophe}\n/image\n/image {apostrophe}\nwhich digit?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    talk(conversation, images=[], video=None, n_frames=8)
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 3
    assert "it's gone.png: no such file" in complaints[0] and "no command /imge" in complaints[1]
    assert len(conversation.images) == 1 and len(conversation.messages) == 2


def test_a_native_file(emu2_lit, weights, tmp_path):
    assert emu2_lit("export", weights, "--to", "native", "--out", "tiny.safetensors")[0] == 0
    question = ["--prompt", "which digit?", "--max-new-tokens", "4"]
    status, _, err = emu2_lit("chat", "tiny.safetensors", *question)
    assert status == 2 and "--preset" in err
    expected = emu2_lit("chat", weights, *question)[:2]
    assert emu2_lit("chat", "tiny.safetensors", "--preset", "tiny", *question)[:2] == expected


def test_a_base_model_is_no_partner(emu2_lit, tmp_path):
    config = Emu2Config.preset("tiny")
    base = tmp_path / "base"
    Emu2ForConditionalGeneration(config).save_pretrained(base, processor=Emu2Processor.for_config(config))
    status, _, err = emu2_lit("chat", base, "--prompt", "hello")
    assert status == 2 and "tune it on some first" in err


@pytest.mark.parametrize("option", ["--beams", "--max-new-tokens", "--frames"])
def test_counts_are_positive(emu2_lit, adapter, option, capsys):
    with pytest.raises(SystemExit, match="2"):
        emu2_lit("chat", adapter, "--prompt", "hello", option, "0")
    assert f"{option}: must be at least 1" in capsys.readouterr().err


def test_a_device_that_is_not_there(emu2_lit, adapter):
    status, _, err = emu2_lit("chat", adapter, "--prompt", "hello", "--device-map", "nonsense")
    assert status == 2 and "nonsense is no device of this machine" in err


def test_mistakes(emu2_lit, adapter):
    status, _, err = emu2_lit("chat", "nowhere/at/all", "--prompt", "hello")
    assert status == 2 and "nowhere/at/all" in err and "Traceback" not in err
    status, _, err = emu2_lit("chat", adapter, "--prompt", "which digit?", "--image", "absent.png")
    assert status == 2 and "absent.png" in err
