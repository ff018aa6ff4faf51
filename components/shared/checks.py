"""The data-quality gate of a stage: its rules over data/<stage>/stats.parquet, as a Great Expectations suite.

    python -m components.shared.checks --stage STAGE [--publish] [key=value ...]

Reads   data/<stage>/stats.parquet (columns of numbers; level: row | shard) and params checks.<stage>
Writes  data/check/<stage>/verdict.json with --publish, only when every rule holds; later stages depend on it
        .work/check/<stage>/docs/index.html (Data Docs) and result.json, also when a rule is broken

A record without a value breaks the rule of its column, and so does a level without records.
"""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.entry import DONE, QualityError, classify, guarded
from components.shared.checks_config import Level, Rule
from components.shared.manifest import remove, write_json

if TYPE_CHECKING:
    import pandas as pd

CHECK = "check"


@dataclass(kw_only=True)
class Finding:
    """What one rule found."""

    rule: str
    """Such as row.duration_s in [0.2, 30] for 99 %."""
    num_records: int
    num_broken: int
    held: bool
    examples: list[float]
    """Up to three values that break the rule."""

    @property
    def line(self) -> str:
        """The finding in one line, with the counts."""
        if not self.num_records:
            return f"rule {self.rule} has no records to look at"
        examples = ", ".join(f"{value:.6g}" for value in self.examples)
        return f"rule {self.rule} is broken by {self.num_broken:,} of {self.num_records:,} records" + (
            f", such as {examples}" if examples else ""
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the gate of one stage; exit code 2 and one line when a rule is broken."""
    parser = argparse.ArgumentParser(prog="python -m components.shared.checks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("overrides", nargs="*", help="Hydra overrides such as scale=smoke")
    parser.add_argument("--stage", required=True, help="whose statistics to look at")
    parser.add_argument("--publish", action="store_true", help="write the verdict to data/ (what dvc repro does)")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    with guarded(CHECK, options.stage, root):
        run_check(options.stage, options.overrides, root=root, publish=options.publish)


def run_check(stage: str, overrides: list[str], *, root: Path, publish: bool) -> list[Finding]:
    """Apply the rules of a stage, record the verdict, return the findings.

    Raises QualityError, in one line with counts, rule and the page to look at, when a rule is broken.
    """
    from components.config import as_dict, load_config
    from components.shared.curves import Curves
    from components.shared.places import Inputs, Outputs
    from components.shared.spool import open_run
    from components.shared.tracking import SpoolTracker

    config = load_config(overrides, root)
    rules: list[Rule] | None = getattr(config.checks, stage, None)
    if rules is None:
        raise ValueError(f"--stage: got {stage!r}, wanted one of {', '.join(vars(config.checks))}")
    place = root / "data" / CHECK / stage
    work = root / ".work" / CHECK / stage
    work.mkdir(parents=True, exist_ok=True)
    if publish:
        remove(place / "verdict.json")
    settings = {"scale": config.scale, "checks": {stage: as_dict(config.checks)[stage]}}
    tracker = SpoolTracker(open_run(CHECK, stage, settings, root), Curves(work, resumed=False))
    inputs, outputs = Inputs(root / "data"), Outputs(root=place, work=work, item=stage)
    try:
        findings = apply(rules, root / "data" / stage / "stats.parquet", stage, work / "docs")
        write_json(work / "result.json", [asdict(finding) for finding in findings])
        _track(tracker, findings, work)
        _judge(findings, os.path.relpath(work / "docs" / "index.html", root))
        if publish:
            write_json(place / "verdict.json", {"stage": stage, "passed": True})
    except BaseException as error:
        tracker.finish(*classify(error), inputs, outputs)
        raise
    tracker.say(f"check@{stage}: {len(rules)} rules hold")
    tracker.finish(DONE, "", inputs, outputs)
    return findings


def _judge(findings: list[Finding], page: str) -> None:
    broken = [finding for finding in findings if not finding.held]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise QualityError(f"{broken[0].line}{more}; see {page}")


def _track(tracker: Any, findings: list[Finding], work: Path) -> None:
    """The verdict of every rule as metrics, the findings and the validation page as artifacts."""
    names = [finding.rule.split(" ")[0] for finding in findings]
    tracker.log_metrics({f"broken/{name}": f.num_broken for name, f in zip(names, findings, strict=True)})
    tracker.log_metrics({"rules": len(findings), "rules_broken": sum(not finding.held for finding in findings)})
    tracker.log_file(work / "result.json")
    for page in (work / "docs").rglob("validations/**/*.html"):
        tracker.log_file(page)


def apply(rules: list[Rule], stats: Path, stage: str, docs: Path) -> list[Finding]:
    """What each rule finds in a stage's statistics; Data Docs are written to `docs`.

    Raises ValueError when the statistics are not there or a rule names no bound, QualityError for a missing column.
    """
    import pandas as pd

    if not stats.is_file():
        raise ValueError(f"{stats}: not there; make it with `dvc repro {stage}`")
    table = pd.read_parquet(stats)
    for rule in rules:
        if rule.min is None and rule.max is None:
            raise ValueError(f"checks.{stage}: rule of column {rule.column!r} has neither min nor max")
        if rule.column not in table.columns:
            columns = ", ".join(column for column in table.columns if column != "level")
            raise QualityError(f"column {rule.column!r} of a rule is not in {stats.name}; it has {columns}")
    levels = {level: table[table["level"] == level.value] for level in Level}
    found: dict[int, Finding] = {}
    for level, records in levels.items():
        numbered = [(number, rule) for number, rule in enumerate(rules) if rule.level is level]
        if numbered and len(records):
            found.update(_validate(numbered, records, f"{stage}-{level.value}", docs))
        elif numbered:
            found.update({number: _finding(rule, 0, 0, []) for number, rule in numbered})
    return [found[number] for number in range(len(rules))]


def _validate(rules: list[tuple[int, Rule]], records: pd.DataFrame, name: str, docs: Path) -> dict[int, Finding]:
    """Run the rules of one level as a suite and write its Data Docs; rule number -> finding."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site: Any = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
    context.add_data_docs_site(site_name="docs", site_config=site)
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for number, rule in rules:
        common: dict[str, Any] = {"column": rule.column, "mostly": rule.mostly, "meta": {"rule": number}}
        between = gx.expectations.ExpectColumnValuesToBeBetween(min_value=rule.min, max_value=rule.max, **common)
        suite.add_expectation(between)
        suite.add_expectation(gx.expectations.ExpectColumnValuesToNotBeNull(**common))
    batch = (
        context.data_sources.add_pandas("stats").add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
    )
    definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
    definition = context.validation_definitions.add(definition)
    action = gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["docs"])
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], actions=[action])
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": records})
    results = [result for run in outcome.run_results.values() for result in run.results]
    return {number: _merge(rule, len(records), number, results) for number, rule in rules}


def _merge(rule: Rule, num_records: int, number: int, results: list[Any]) -> Finding:
    """One finding of a rule's two expectations: values inside the bounds, and a value in every record."""
    own = [result for result in results if result.expectation_config.meta["rule"] == number]
    broken = sum(result.result["unexpected_count"] for result in own)
    values = [value for result in own for value in result.result["partial_unexpected_list"] if value is not None]
    finding = _finding(rule, num_records, broken, [float(value) for value in values])
    finding.held = finding.held and all(result.success for result in own)
    return finding


def _finding(rule: Rule, num_records: int, num_broken: int, values: list[float]) -> Finding:
    low = "-inf" if rule.min is None else f"{rule.min:g}"
    high = "inf" if rule.max is None else f"{rule.max:g}"
    return Finding(
        rule=f"{rule.level.value}.{rule.column} in [{low}, {high}] for {100 * rule.mostly:g} %",
        num_records=num_records,
        num_broken=num_broken,
        held=num_records - num_broken >= rule.mostly * num_records > 0,
        examples=values[:3],
    )


if __name__ == "__main__":
    main()
