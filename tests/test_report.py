"""The report: one page that needs nothing else, figures that say what they are measured against."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from components.evaluate.samples import SampleBook
from components.report.charts import interval_chart, line_chart, nice_ticks, thin, usage_chart
from components.report.config import ReportConfig
from components.report.curves import charts_of
from components.report.sounds import to_mp3
from components.report.spectrogram import HEIGHT, spectrogram_db, spectrogram_png
from components.report.stage import run
from components.report.table import BEGIN, END, LINES, figure, put_into, read_figures, to_markdown
from components.shared.manifest import seal, write_json
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker

VOID = {"meta", "img", "line", "circle", "rect", "br", "polyline", "polygon"}


class Page(HTMLParser):
    """Collects what a page refers to and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def tone(seconds: float = 0.5, rate_hz: int = 16_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 1000 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def measured(metric: str, value: float, beside: str) -> dict[str, float]:
    return {
        metric: value,
        f"{metric}_low": value - 0.05,
        f"{metric}_high": value + 0.05,
        f"{metric}_{beside}": value - 0.2,
        f"{metric}_difference_low": 0.1,
        f"{metric}_difference_high": 0.3,
        f"{metric}_items": 510.0,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A run of two evaluated models, one of them with a sound."""
    data = tmp_path_factory.mktemp("run") / "data"
    question = measured("question_s_to_t_withheld", 0.41, "chance")
    write_json(data / "evaluate" / "pretrain" / "metrics.json", question)
    wer = measured("transcription_wer_synthesized_unseen", 0.04, "reference")
    write_json(data / "evaluate" / "speech_tokenizer" / "metrics.json", wer)
    folder = data / "evaluate" / "speech_tokenizer"
    write_json(folder / "scores" / "codebook.json", {"counts": [5, 0, 2, 0]})
    seal(folder / "scores")
    (folder / "samples").mkdir()
    book = SampleBook(folder / "samples", TerminalTracker())
    book.add("A voice", "en", {"said": "<script>alert(1)</script>"}, {"original": (tone(), 16_000)})
    book.close()
    write_json(data / "collect" / "metrics.json", {"hours": 3.6, "utterances": 4563.0, "dropped_silent": 2.0})
    write_json(data / "pretrain" / "curves.json", {"loss": [[1, 5.0], [2, 4.0]], "validation_loss": [[2, 4.5]]})
    return data


def report(data: Path, where: Path, **changes) -> tuple[dict[str, float], str]:
    outputs = Outputs(root=where, work=where / "work")
    where.mkdir(parents=True, exist_ok=True)
    settings = {"seed": 1, "scale": "tiny", "max_sounds_mb": 5.0, "max_samples": 3}
    metrics = run(ReportConfig(**(settings | changes)), Inputs(data), outputs, TerminalTracker())
    outputs.publish(metrics)
    return metrics, (where / "page" / "report.html").read_text(encoding="utf-8")


def test_the_page_is_one_file_that_refers_to_nothing_outside(data, tmp_path):
    metrics, html = report(data, tmp_path)
    page = Page()
    page.feed(html)
    assert page.open == []
    assert all(re.match(r"data:(audio/mpeg|image/png);base64,|#", reference) for reference in page.references)
    assert not re.search(r"@import|url\(|https?://|<script", html)
    assert {"audio", "svg", "img", "table"} <= set(page.tags)
    assert metrics["figures"] == 2.0
    assert metrics["samples"] == 1.0


def test_the_page_says_what_is_measured_and_what_is_not_there(data, tmp_path):
    _, html = report(data, tmp_path)
    page = Page()
    page.feed(html)
    words = " ".join(page.text.split())
    assert "41.0%" in words and "21.0%" in words, "the figure and its chance"
    assert "<script>alert(1)</script>" in words, "a text of the data is shown, not obeyed"
    assert "Not run yet, and therefore not shown" in words
    assert "laptop" in words
    assert "dropped silent" in words


def test_interleaved_documents_have_a_shelf_of_their_own_with_their_spans_marked(tmp_path):
    folder = tmp_path / "data" / "evaluate" / "speech_decoder" / "samples"
    folder.mkdir(parents=True)
    book = SampleBook(folder, TerminalTracker())
    book.add("recorded, ann", "en", {"said": "hello"}, {"original": (tone(), 16_000)})
    document = {"document": "Anna <b> likes ⟦1: two & dogs, 9 tokens⟧ a lot ⟧."}
    book.add("letters: 1 spans", "en", document, {"span 1": (tone(), 16_000)}, shelf="interleaved")
    book.close()
    metrics, html = report(tmp_path / "data", tmp_path / "out")
    assert metrics["samples"] == 2.0
    first, second = html.index("<h3>Re-synthesised speech</h3>"), html.index("<h3>Interleaved documents</h3>")
    assert first < html.index("recorded, ann") < second < html.index("letters: 1 spans")
    assert "Anna &lt;b&gt; likes <mark>1: two &amp; dogs, 9 tokens</mark> a lot ⟧." in html


def test_a_sample_on_a_shelf_that_the_page_does_not_have_is_one_line(tmp_path):
    folder = tmp_path / "data" / "evaluate" / "sft" / "samples"
    folder.mkdir(parents=True)
    book = SampleBook(folder, TerminalTracker())
    book.add("a", "en", {}, {}, shelf="attic")
    book.close()
    with pytest.raises(ValueError, match="sample 000: got shelf 'attic', wanted one of ''"):
        report(tmp_path / "data", tmp_path / "out")


def test_an_empty_run_still_makes_a_page(tmp_path):
    (tmp_path / "data").mkdir()
    metrics, html = report(tmp_path / "data", tmp_path / "out")
    assert metrics["figures"] == 0.0
    assert "No model was evaluated yet." in html


def test_sounds_beyond_the_limit_are_left_out_and_counted(data, tmp_path):
    metrics, html = report(data, tmp_path, max_sounds_mb=0.0001)
    assert metrics["samples_left_out"] == 1.0
    assert "1 samples were left out" in html


def test_every_line_of_the_table_has_a_label_of_its_own():
    assert len({(line.section, line.label) for line in LINES}) == len(LINES)
    assert len({(line.model, line.metric) for line in LINES}) == len(LINES)


def test_a_figure_is_better_beyond_its_interval_in_its_own_direction():
    rate = next(line for line in LINES if line.metric == "transcription_wer_synthesized_unseen")
    right = next(line for line in LINES if line.metric == "question_s_to_t_withheld")
    assert figure(rate, measured(rate.metric, 0.3, "reference")).beyond is False
    assert figure(right, measured(right.metric, 0.3, "chance")).beyond is True


def test_the_markdown_table_holds_every_figure(data):
    table = to_markdown(read_figures(data))
    assert "| WER, synthesised English, a voice kept for test | 4.0% | -1.0% – 9.0% |" in table
    assert "21.0% (best guess without the question) | 510 |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_table_is_a_command(data):
    command = [sys.executable, "-m", "components.report.table", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| what | value |")
    empty = subprocess.run([*command[:-1], str(data / "collect")], capture_output=True, text=True, check=False)
    assert "dvc repro report" in empty.stderr


def test_the_table_is_put_between_its_marks(data):
    document = f"# Title\n{BEGIN}\nold\n{END}\nmore\n"
    assert put_into(document, "| new |") == f"# Title\n{BEGIN}\n| new |\n{END}\nmore\n"
    assert put_into(put_into(document, "| new |"), "| new |") == put_into(document, "| new |")
    with pytest.raises(ValueError, match="got 0 and 1 marks"):
        put_into(END, "| new |")


def test_the_readme_shows_the_figures_that_are_in_git(tmp_path):
    """Those of the last commit, so that a run of one's own does not fail the test."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    paths = git("ls-files", "data/evaluate/*/metrics.json").split()
    if not git("rev-parse", "--git-dir"):
        pytest.skip("not a checkout of git")
    assert paths
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(git("show", f":{path}"), encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert put_into(readme, to_markdown(read_figures(tmp_path / "data"))) == readme


def test_training_and_validation_of_one_quantity_share_a_chart():
    curves = {"loss": [(1.0, 2.0)], "validation_loss": [(1.0, 3.0)], "lr": [(1.0, 0.1)]}
    charts = charts_of(curves)
    assert len(charts) == 1
    assert "training" in charts[0] and "validation" in charts[0]


def test_long_curves_are_thinned_and_infinities_left_out():
    points = [(float(step), 1.0) for step in range(5000)] + [(5000.0, float("inf"))]
    assert len(thin(points)) <= 240
    assert "nan" not in line_chart({"loss": points}, "loss")
    assert line_chart({"loss": [(1.0, float("nan"))]}, "loss") == ""


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.3, 2.3), (0.0, 0.0), (-3.0, 1e6), (1e-6, 2e-6)])
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_charts_are_well_formed_and_readable_aloud(data):
    for chart in (interval_chart(read_figures(data)), usage_chart([5, 0, 2, 0]), line_chart({"a": [(1, 2)]}, "t<i>")):
        page = Page()
        page.feed(chart)
        assert page.open == []
        assert 'role="img" aria-label="' in chart
    assert "2 of 4 codes occur" in usage_chart([5, 0, 2, 0])


def test_a_tone_is_bright_where_it_sounds():
    levels_db = spectrogram_db(tone(), 16_000)
    assert levels_db.shape[0] == HEIGHT
    loudest = int(levels_db.mean(axis=1).argmax())
    edges_hz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), HEIGHT + 1) / 2595) - 1)
    assert edges_hz[loudest] - 60 <= 1000 <= edges_hz[loudest + 1] + 60
    image = Image.open(io.BytesIO(spectrogram_png(tone(), 16_000)))
    assert image.size[1] == HEIGHT


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100])
def test_any_rate_becomes_a_sound_that_browsers_play(rate_hz):
    content = to_mp3(tone(rate_hz=rate_hz), rate_hz)
    wave, _ = soundfile.read(io.BytesIO(content))
    assert 0.4 <= len(wave) / soundfile.info(io.BytesIO(content)).samplerate <= 0.7
    assert len(content) < 8_000


def test_metrics_and_figures_agree(data, tmp_path):
    metrics, _ = report(data, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
