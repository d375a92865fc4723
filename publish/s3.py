"""Target `s3`: files and their checksums in a bucket, or in any folder that fsspec reaches.

https://filesystem-spec.readthedocs.io; credentials are those that each of its file systems reads from the environment.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tuneline.core.formatting import format_bytes
from tuneline.publish.run_files import RunFile, join_forms
from tuneline.publish.storage import remove_file, upload_file, verify_file, write_bytes
from tuneline.publish.target import FILE, VERIFIED, Publication, Step, Values, hash_content

CHECKSUMS = "SHA256SUMS"


def steps(publication: Publication) -> Sequence[Step]:
    """Return the upload of each file, of their checksums, and a comparison of what is there with them."""
    url = publication.settings.url.rstrip("/")
    files = join_forms(publication.run, publication.recipe, publication.settings.forms)
    checksums = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return [
        *(_upload_step(url, file, publication.folder) for file in files),
        Step(
            key=CHECKSUMS,
            shows=f"PUT {url}/{CHECKSUMS}",
            content=hash_content(url, checksums),
            run=partial(_write_checksums, url, checksums),
            body=checksums,
        ),
        Step(
            key="verify",
            shows=f"compare the files in {url} with {CHECKSUMS}",
            content=hash_content(url, checksums),
            run=partial(_verify, url, files),
            repeats=True,
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the removal of each file that was uploaded, the checksums first."""
    addresses = {name.removeprefix(FILE): address for name, address in values.items() if name.startswith(FILE)}
    return [
        Step(
            key=f"remove {name}",
            shows=f"DELETE {addresses[name]}",
            content=hash_content(addresses[name]),
            run=partial(_remove, addresses[name]),
        )
        for name in sorted(addresses, key=lambda name: name != CHECKSUMS)
    ]


def _upload_step(url: str, file: RunFile, records: Path) -> Step:
    address = f"{url}/{file.name}"

    def run(_: Values) -> Values:
        upload_file(file, address, records)
        return {f"{FILE}{file.name}": address}

    shows = f"PUT {address} ({format_bytes(file.bytes)})"
    return Step(key=file.name, shows=shows, content=hash_content(url, file.sha256), run=run)


def _write_checksums(url: str, checksums: str, _: Values) -> Values:
    write_bytes(checksums.encode(), f"{url}/{CHECKSUMS}")
    return {f"{FILE}{CHECKSUMS}": f"{url}/{CHECKSUMS}"}


def _verify(url: str, files: Sequence[RunFile], _: Values) -> Values:
    """Raise StageFailed if a file there is missing or another."""
    for file in files:
        verify_file(file, f"{url}/{file.name}")
    return {VERIFIED: f"all {len(files)} files there are the local ones, by SHA-256"}


def _remove(address: str, _: Values) -> None:
    remove_file(address)
