"""`plan` on the command line."""

import json

import pytest

from emu2_lit.cli.plan import memory_size


def test_plan_in_words(emu2_lit):
    status, out, _ = emu2_lit("plan", "quickstart/chat", "--memory", "16GiB", "data.micro_batch_size=4")
    assert status == 0
    for part in ("4 sample(s) of 256 tokens", "optimizer state", "peak", "Fits:", "tokens at most", "a checkpoint"):
        assert part in out


def test_plan_that_does_not_fit(emu2_lit):
    status, out, _ = emu2_lit("plan", "quickstart/chat", "--memory", "1100MiB", "data.max_length=2048", "--json")
    assert status == 2
    values = json.loads(out)
    assert values["fits"] is False and values["micro_batch"]["length"] == 2048
    assert values["advice"][0]["saves"] == values["peak"]["bytes"] - values["advice"][0]["peak"] > 0
    assert "Does not fit" in emu2_lit("plan", "quickstart/chat", "--memory", "1100MiB", "data.max_length=2048")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a recipe"),
        (("quickstart/chat", "--table"), "not both"),
        (("quickstart/chat", "--devices", "0"), "at least 1"),
        (("quickstart/chat", "--gpu", "abacus"), "no rate is known"),
        (("chat/none",), "no recipe"),
    ],
)
def test_wrong_input(emu2_lit, arguments, message):
    status, _, err = emu2_lit("plan", *arguments)
    assert status == 2 and message in err


def test_overrides_after_options(emu2_lit, capsys):
    with pytest.raises(SystemExit):
        emu2_lit("plan", "quickstart/chat", "--devices", "1", "--nonsense=1")
    assert "unrecognized arguments: --nonsense=1" in capsys.readouterr().err


def test_sizes_of_memory():
    assert memory_size("80GiB") == memory_size("80G") == 80 * 2**30
    assert memory_size("1.5 TiB") == int(1.5 * 2**40) and memory_size("4096") == 4096
