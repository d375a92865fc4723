"""Executes the steps of a publication, and records each as soon as it is done, so that the next call continues."""

from collections.abc import Callable, Sequence

from tuneline.core.errors import NotFound, StageFailed
from tuneline.core.locks import run_lock
from tuneline.publish.comparison import compare_answers
from tuneline.publish.record import Published, StepRecord, TargetRecord, now, read_published, write_published
from tuneline.publish.target import NO_VALUES, VERIFIED, Publication, Step, Target

Say = Callable[[str], None]


def publish(publication: Publication, target: Target, say: Say) -> TargetRecord:
    """Return the record of a published run; only steps whose content was not sent yet are executed.

    Then the published model is asked and compared with the local one; `say` takes each line that a user should see.

    Raises:
        Locked: another process writes the run. StageFailed: the published model's answers are others.
        Whatever a step raises; what was done before it is recorded.
    """
    steps = target.steps(publication)
    with run_lock(publication.run, "publish"):
        published = read_published(publication.run)
        record = published.targets.get(publication.target) or TargetRecord(began=now())
        if record.state in ("withdrawing", "withdrawn"):
            record = TargetRecord(began=now())
        record.settings = publication.settings.model_dump(mode="json")
        published.targets[publication.target] = record
        _execute(steps, record, say, lambda: write_published(publication.run, published))
        record.state, record.ended = "published", now()
        write_published(publication.run, published)
        question = target.question(publication, record.values) if hasattr(target, "question") else None
        record.compared = compare_answers(publication, question, record.values.get(VERIFIED, ""))
        write_published(publication.run, published)
    if not record.compared.passed:
        raise StageFailed(
            f"{publication.target}: published, but only {record.compared.same} of {record.compared.prompts} answers "
            f"are those of {record.compared.answers_of}, {record.compared.required} are required; "
            f"`tuneline publish {publication.run.name} --from {publication.target}` takes it back"
        )
    return record


def withdraw(publication: Publication, target: Target, say: Say) -> None:
    """Take back what was published; what was taken back already is not repeated.

    Raises:
        NotFound: the run is not published there. Locked: another process writes the run. Whatever a step raises.
    """
    with run_lock(publication.run, "withdraw"):
        published = read_published(publication.run)
        record = find_published(publication, published)
        steps = target.undo_steps(publication, record.values)
        record.state = "withdrawing"
        _execute(steps, record, say, lambda: write_published(publication.run, published))
        published.targets[publication.target] = TargetRecord(state="withdrawn", began=record.began, ended=now())
        write_published(publication.run, published)


def find_published(publication: Publication, published: Published) -> TargetRecord:
    """Return the target's record of a run that is published there.

    Raises:
        NotFound: it is not.
    """
    record = published.targets.get(publication.target)
    if record is None or record.state == "withdrawn":
        raise NotFound(f"{publication.run.name}: is not published to {publication.target}")
    return record


def _execute(steps: Sequence[Step], record: TargetRecord, say: Say, save: Callable[[], None]) -> None:
    save()  # before anything is sent: a crash leaves a record of what may be there
    for step in steps:
        done = record.steps.get(step.key)
        if done and done.content == step.content and not step.repeats:
            say(f"{step.shows}: done before")
            continue
        say(step.shows)
        values = step.run(record.values) or NO_VALUES
        record.steps.pop(step.key, None)  # a repeated step's values go on top of those before it
        record.steps[step.key] = StepRecord(content=step.content, at=now(), values=dict(values))
        save()
