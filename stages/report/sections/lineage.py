"""Times and lineage: how long each stage took, what it was made from, with which versions and settings."""

from tuneline.core.artifacts import Manifest
from tuneline.stages.report.run_record import STAGES, Row, RunRecord


def describe_lineage(run: RunRecord) -> Row:
    """Return the template variables `manifests`, `origins` (stage → when and where), `versions` and `settings`."""
    manifests = _list_manifests(run)
    return {
        "manifests": manifests,
        "origins": {stage: manifest.origin for stage, manifest in manifests},
        "versions": _list_versions([manifest for _, manifest in manifests]),
        "settings": {stage: run.settings(stage) for stage in STAGES if run.settings(stage)},
    }


def _list_manifests(run: RunRecord) -> list[tuple[str, Manifest]]:
    base = [("fetch", run.base_manifest)] if run.base_manifest else []
    return [*base, *((stage, run.manifests[stage]) for stage in STAGES if stage in run.manifests)]


def _list_versions(manifests: list[Manifest]) -> dict[str, str]:
    """Return the version of each package; where stages had different ones, all of them, in the order of the stages."""
    versions_by_package: dict[str, list[str]] = {}
    for manifest in manifests:
        for package, version in manifest.versions.items():
            versions = versions_by_package.setdefault(package, [])
            if version not in versions:
                versions.append(version)
    return {package: ", ".join(versions) for package, versions in versions_by_package.items()}
