"""The report: one self-contained HTML page for each run, made from its manifests, events and answers alone."""

from datetime import UTC, datetime
from pathlib import Path

from tuneline.core.errors import NotFound
from tuneline.core.files import write_atomic
from tuneline.core.page_templates import load_template
from tuneline.stages.report.answer_text import format_answer, format_call
from tuneline.stages.report.evaluation_record import read_evaluation
from tuneline.stages.report.run_record import Row, read_run
from tuneline.stages.report.sections.confusions import count_confusions
from tuneline.stages.report.sections.external_evidence import describe_external_evidence
from tuneline.stages.report.sections.failures import select_failures
from tuneline.stages.report.sections.lineage import describe_lineage
from tuneline.stages.report.sections.model_files import describe_files
from tuneline.stages.report.sections.overview import describe_run
from tuneline.stages.report.sections.plan_check import compare_with_plan
from tuneline.stages.report.sections.precision_costs import compare_precision_costs
from tuneline.stages.report.sections.scoreboard import describe_scoreboard
from tuneline.stages.report.sections.training import describe_training
from tuneline.stages.report.sections.verification import summarize_checks

FILE = "report.html"


def write_report(run: Path) -> Path:
    """Write `report.html` into the run's folder and return its path; a section without data says what is missing.

    Raises:
        NotFound: there is no such run.
    """
    if not run.is_dir():
        raise NotFound(f"{run}: no such run; `tuneline runs ls` lists the runs")
    page = load_template(Path(__file__).with_name("page.html.jinja")).render(**_build_context(run))
    write_atomic(run / FILE, page)
    return run / FILE


def _build_context(folder: Path) -> Row:
    """Return the variables of `page.html.jinja`, in the order of the page."""
    run = read_run(folder)
    evaluation = read_evaluation(run)
    return {
        "name": folder.name,
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "run": run,
        "format_call": format_call,
        "format_answer": format_answer,
        **describe_run(run, evaluation),
        "prepared": run.metrics("prepare"),
        **describe_training(run),
        **describe_scoreboard(run, evaluation),
        "confusion_matrix": count_confusions(evaluation.main_answers),
        "failures": select_failures(evaluation.main_answers, evaluation.answers.get("base", {})),
        **describe_files(run, evaluation),
        "precision_costs": compare_precision_costs(run.metrics("convert")),
        "checks": summarize_checks(folder / "convert") if "convert" in run.manifests else [],
        "skipped": run.metrics("convert").get("skipped", []),
        "differences": run.metrics("convert").get("differences", []),
        "plan_check": compare_with_plan(run),
        **describe_external_evidence(run),
        **describe_lineage(run),
    }
