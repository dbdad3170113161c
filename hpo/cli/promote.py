"""What `hpo promote` prints."""

from __future__ import annotations

from hpo.cli.show import amount, number, open_console, print_json
from hpo.cli.source import Source
from hpo.cli.text import escape
from hpo.decisions.promotion import Promotion
from storage.masking import without_secrets


def promote_and_tell(source: Source, study: str, *, trial: int | None, name: str | None, as_json: bool) -> None:
    """`hpo promote`."""
    done = source.promote(study, trial=trial, name=name)
    if as_json:
        print_json(done.to_json())
    else:
        _print(done)


def _print(done: Promotion) -> None:
    console = open_console()
    model = "the compressed model" if done.compressed else "the model"
    console.print(
        f"[bold]{escape(done.name)}[/] version {done.version} is the {done.alias}: {model} of trial {done.trial} of "
        f"{escape(done.study)} ({escape(done.why)})",
        soft_wrap=True,
    )
    values = ", ".join(f"{name} = {amount(value)}" for name, value in done.objectives.items())
    console.print(f"  its training run       {escape(values)}", soft_wrap=True)
    again = ", ".join(f"{name} = {number(value)}" for name, value in sorted(done.metrics.items()))
    console.print(f"  validated once more    {escape(again)}", soft_wrap=True)
    if done.expected is not None:
        low, high = done.expected.interval95
        console.print(
            f"  of another run         {number(done.expected.value)}, 95% {number(low)} … {number(high)} "
            f"(by {escape(done.expected.by)})",
            soft_wrap=True,
        )
    console.print(
        f"  predicts as its checkpoint does (largest difference {done.largest_difference:.1e})", soft_wrap=True
    )
    if done.note:
        console.print(f"  kept as a pickle with its code: {escape(done.note)}", soft_wrap=True)
    console.print(
        f'load it: mlflow.set_tracking_uri("{escape(without_secrets(done.mlflow_uri))}"); '
        f'mlflow.pytorch.load_model("{escape(done.model_uri)}")',
        soft_wrap=True,
    )
