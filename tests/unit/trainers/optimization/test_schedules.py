"""Does each schedule pass through the points that its name promises?"""

from __future__ import annotations

import math

import pytest
import torch

from trainers.errors import ParameterMismatchError
from trainers.optimization.schedules import SCHEDULES, make_schedule

LR = 0.5


def curve(name: str, total_steps: int, **options: float) -> list[float]:
    """The learning rate of each step, and after the last, as a share of the optimizer's."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR)
    schedule = make_schedule(name, optimizer, total_steps=total_steps, **options)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        schedule.step()
    return [*rates, optimizer.param_groups[0]["lr"] / LR]


def test_constant() -> None:
    assert curve("constant", 5) == [1.0] * 6


def test_step_falls_at_equal_distances() -> None:
    assert curve("step", 9, gamma=0.1, drops=2) == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 4)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    rates = curve("cosine", 20)
    assert rates == pytest.approx([(1 + math.cos(math.pi * step / 20)) / 2 for step in range(21)], abs=1e-9)
    assert rates[10] == pytest.approx(0.5)


def test_one_cycle_rises_from_a_25th_to_its_peak_and_ends_near_zero() -> None:
    *rates, _ = curve("one_cycle", 100, warmup=0.3)
    assert rates[0] == pytest.approx(1 / 25)
    assert rates.index(max(rates)) == 29
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 1e-4


def test_warmup_is_a_straight_line_then_constant() -> None:
    assert curve("warmup", 10, warmup=0.4) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 8)


def test_warmup_cosine_is_both() -> None:
    rates = curve("warmup_cosine", 24, warmup=1 / 6)
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[14] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 7])
def test_every_schedule_is_sound_however_short(name: str, total_steps: int) -> None:
    assert all(0 <= rate <= 1 + 1e-9 for rate in curve(name, total_steps))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_where_its_state_was_kept(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR)
    schedule = make_schedule(name, optimizer, total_steps=10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    resumed_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR)
    resumed = make_schedule(name, resumed_optimizer, total_steps=10)
    resumed.load_state_dict(schedule.state_dict())
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    for each, its in ((optimizer, schedule), (resumed_optimizer, resumed)):
        each.step()
        its.step()
    assert resumed_optimizer.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("name", "total_steps", "options", "message"),
    [
        ("cosin", 3, {}, "there is no schedule 'cosin'; did you mean 'cosine'"),
        ("step", 3, {"gama": 0.1}, "schedule step has no option 'gama'; did you mean 'gamma'"),
        ("cosine", float("inf"), {}, "schedule cosine needs to know when training ends, and total_steps = inf"),
        ("cosine", 0, {}, "and total_steps = 0; set `max_epochs`"),
        ("warmup", 3, {"warmup": 1.0}, "schedule warmup: warmup = 1.0 is no share between 0 and 1"),
    ],
)
def test_what_cannot_be_a_schedule(name: str, total_steps: int, options: dict[str, float], message: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR)
    with pytest.raises(ParameterMismatchError, match=message):
        make_schedule(name, optimizer, total_steps=total_steps, **options)
