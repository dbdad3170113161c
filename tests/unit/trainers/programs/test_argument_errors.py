"""Is what jsonargparse says over many lines still said in one?"""

from __future__ import annotations

from argparse import ArgumentError
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer

from trainers.programs.argument_errors import one_line


class Net(LightningModule):
    def __init__(self, lr: float, width: int = 3) -> None:
        super().__init__()


def said(**arguments: Any) -> str:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    parser.add_subclass_arguments(LightningModule, "model", required=False)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_object(arguments)
    return one_line(caught.value)


NET = f"{__name__}.Net"
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"trainer": {"max_epochs": "two"}}, "trainer.max_epochs: expected int or null, not two"),
        (
            {"trainer": {"precision": 17}},
            "trainer.precision: expected one of 64, 32, 16 or one of 'transformer-engine', "
            "'transformer-engine-float16', '16-true', '16-mixed', 'bf16-true', 'bf16-mixed', '32-true', '64-true' or "
            "one of '64', '32', '16', 'bf16' or null, not 17",
        ),
        ({"trainer": {"max_epocs": 2}}, "Group 'trainer' does not accept option 'max_epocs'"),
        ({"model": {"class_path": NET, "init_args": {"lr": "x"}}}, f"model: {NET}: lr: expected float, not x"),
        ({"model": {"class_path": NET, "init_args": {"lrr": 1}}}, f"model: {NET}: Option 'lrr' is not accepted"),
        ({"model": {"class_path": NET}}, f"model: {NET}: the following arguments are required: lr"),
        (
            {"trainer": {"callbacks": [{"class_path": STOPPING, "init_args": {"monitr": "x"}}]}},
            f"trainer.callbacks: {STOPPING}: Option 'monitr' is not accepted",
        ),
        (
            {"trainer": {"callbacks": [{"class_path": "EarlyStopp"}]}},
            "trainer.callbacks: there is no class 'EarlyStopp'; write its whole import path",
        ),
    ],
)
def test_one_line_says_the_key_and_what_is_wrong(arguments: dict[str, Any], expected: str) -> None:
    assert said(**arguments) == expected


def test_an_error_without_words_says_its_kind() -> None:
    assert one_line(ValueError()) == "ValueError"
