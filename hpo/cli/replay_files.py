"""Where does `hpo replay --out` write what it has found?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import SettingsError

if TYPE_CHECKING:
    from hpo.replay.report import Report
    from hpo.replay.runs import Run


@dataclass(frozen=True, kw_only=True)
class ReplayFiles:
    """The figures, the text, the picture, and the runs that they were made of."""

    json: Path
    text: Path
    picture: Path
    runs: Path

    @classmethod
    def of(cls, out: Path) -> ReplayFiles:
        """The files beside one another. Raises SettingsError where they cannot be, or are somebody else's."""
        base = out.with_suffix("") if out.suffix in (".json", ".md", ".png") else out
        files = cls(**{
            name: base.parent / f"{base.name}{ending}"
            for name, ending in (("json", ".json"), ("text", ".md"), ("picture", ".png"), ("runs", ".runs.jsonl"))
        })  # fmt: skip
        folder = base.absolute().parent
        if not folder.is_dir():
            raise SettingsError(f"--out {out}: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise SettingsError(f"--out {out}: nothing can be written to {folder}")
        for path in (files.json, files.text, files.picture):
            if path.exists() and not files.runs.exists():
                raise SettingsError(f"--out {out}: {path} is there already, and no replay's; name another")
        return files

    def write(self, report: Report, runs: Sequence[Run]) -> list[Path]:
        """Write the figures, the text and, where there are runs to draw, the picture; returns what was written."""
        import json

        from hpo.answers.plain import jsonable
        from hpo.replay.plot import plot_curves
        from hpo.replay.report import to_markdown

        self.json.write_text(json.dumps(jsonable(report.to_json()), indent=2, ensure_ascii=False) + "\n", "utf-8")
        self.text.write_text(to_markdown(report), "utf-8")
        if not runs:
            return [self.json, self.text]
        plot_curves(runs, self.picture, title=f"{report.tasks} tasks, history: {report.setting.regime}")
        return [self.json, self.text, self.picture]
