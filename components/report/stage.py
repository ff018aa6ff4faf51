"""The report: gather what every stage left, draw it, and write one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from components.report import content
from components.report.config import ReportConfig
from components.report.curves import TRAINED, charts_of, read_curves
from components.report.miniature import notes, sizes
from components.report.table import read_figures, to_markdown
from components.shared.manifest import atomic, read_json, seal
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker


def run(config: ReportConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Write the page of a run.

    Reads   data/<stage>/metrics.json and curves.json, data/evaluate/<model>/{metrics.json,scores,samples}
    Writes  data/report/page/report.html
    Metrics figures, samples, samples_left_out: counts of what the page shows; size_mb

    Parts whose stage has not run are left out and named in the page's notes and on the terminal.
    """
    data = inputs.data
    metrics = {stage: _metrics(data / stage) for stage in content.STAGES}
    missing = [stage for stage, rows in metrics.items() if not rows]
    if missing:
        tracker.say(f"report: no metrics of {', '.join(missing)}; the page is shown without them")
    figures = read_figures(data)
    shelves, left_out = content.shelves(inputs, max_samples=config.max_samples, max_sounds_mb=config.max_sounds_mb)
    learning = [{"name": stage, "charts": charts_of(read_curves(data / stage / "curves.json"))} for stage in TRAINED]
    page = render(
        scale=config.scale,
        tiles=content.tiles(figures, _metrics(data / "evaluate" / "pretrain")),
        sizes=sizes(metrics),
        sections=content.sections(figures),
        figures=figures,
        shelves=shelves,
        learning=[stage for stage in learning if stage["charts"]],
        codebook=content.codebook(inputs),
        speech=content.speech_rows(metrics["collect"]),
        mixture=content.mixture_rows(metrics["mix"]),
        numbers=content.numbers({stage: rows for stage, rows in metrics.items() if rows}),
        notes=notes(config.scale, metrics, missing=missing, left_out=left_out),
    )
    folder = outputs.folder("page")
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    seal(folder)
    tracker.log_file(folder / "report.html")
    tracker.log_text(to_markdown(figures), "figures.md")
    num_samples = sum(len(shelf.samples) for shelf in shelves)
    size_mb = len(page.encode()) / 1e6
    tracker.say(f"report: {len(figures)} figures and {num_samples} samples in {size_mb:.1f} MB")
    outputs.write_stats(shards=[{"figures": len(figures), "samples": num_samples, "size_mb": size_mb}], rows=[])
    return {
        "figures": float(len(figures)),
        "samples": float(num_samples),
        "samples_left_out": float(left_out),
        "size_mb": size_mb,
    }


def render(**values: Any) -> str:
    """The page as HTML. SVG charts go in as they are, everything else is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=select_autoescape(["j2"]), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["mark_spans"] = content.mark_spans
    values["sections"] = [row | {"chart": Markup(row["chart"])} for row in values["sections"]]
    values["learning"] = [row | {"charts": [Markup(chart) for chart in row["charts"]]} for row in values["learning"]]
    values["codebook"] = Markup(values["codebook"])
    return environment.get_template("page.html.j2").render(**values)


def _metrics(folder: Path) -> dict[str, float]:
    """metrics.json of a stage that has run, else nothing."""
    path = folder / "metrics.json"
    return read_json(path) if path.is_file() else {}
