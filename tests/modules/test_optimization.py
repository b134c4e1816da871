import math

import pytest
import torch
from torch import nn

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.parts import freeze
from emu2_lit.modules.optimization import learning_rate_factor, parameter_groups, schedule
from emu2_lit.settings import OptimizerSettings, PartRates


def factors(steps, **settings):
    return [learning_rate_factor(step, OptimizerSettings(**settings), steps) for step in range(steps + 1)]


def test_warm_up_is_linear_and_reaches_the_peak():
    assert factors(100, warmup_steps=4)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_warm_up_by_the_logarithm_of_the_step():
    rates = factors(200, warmup_steps=100, warmup="log", schedule="constant")
    assert rates[99] == rates[150] == 1
    assert rates[9] == pytest.approx(math.log(11) / math.log(101))
    assert 0 < rates[0] < rates[1] < rates[98] < 1


def test_cosine_ends_at_the_given_share():
    values = factors(110, warmup_steps=10, min_lr_ratio=0.1)
    assert values[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert values[-1] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_linear_and_constant():
    assert factors(10, warmup_steps=0, schedule="linear")[5] == pytest.approx(0.5)
    assert set(factors(10, warmup_steps=0, schedule="constant")) == {1.0}


def test_weight_decay_on_matrices_only():
    model = nn.ModuleDict({"linear": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 3))
    decayed, plain = parameter_groups(model, OptimizerSettings(weight_decay=0.1))
    assert decayed["params"] == [model["linear"].weight] and decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0.0


def test_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="nothing trains"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), OptimizerSettings())


def test_parts_have_rates_of_their_own():
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny"))
    freeze(model, ["visual"])
    settings = OptimizerSettings(lr=1e-4, part_lr=PartRates(project_up=1e-3), weight_decay=0.1)
    groups = parameter_groups(model, settings)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in model.lm.parameters()} == {1e-4}
    assert rates[id(model.project_up.weight)] == 1e-3
    assert len(rates) == sum(p.requires_grad for p in model.parameters())


def test_a_rate_for_what_does_not_train_is_refused():
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny"))
    freeze(model, ["visual"])
    with pytest.raises(UserError, match="visual does not train here"):
        parameter_groups(model, OptimizerSettings(part_lr=PartRates(visual=5e-5)))


def test_schedule_needs_a_number_of_steps_and_a_known_name():
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    with pytest.raises(UserError, match="max_steps"):
        schedule(optimizer, OptimizerSettings(), -1)
    with pytest.raises(UserError, match="cosine, linear, constant"):
        schedule(optimizer, OptimizerSettings(schedule="step"), 10)
