"""Files in a bucket or a folder that fsspec reaches: uploaded in parts, compared by SHA-256, removed.

S3's uploads are resumed: the parts that are there with the same MD5 are not sent again, so that a broken upload repeats
at most the part it broke in. S3 itself checks each part against its SHA-256 as it arrives.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.redaction import redact
from tuneline.publish.parts import PART_BYTES, Part, read_parts
from tuneline.publish.run_files import RunFile
from tuneline.publish.target import hash_content

S3 = ("s3", "s3a")
S3_OPTIONS = {"config_kwargs": {"s3": {"payload_signing_enabled": False}}}
"""The signature is about a part's SHA-256, which is a header; botocore would hash each part once more for it."""
MAX_PARTS = 10_000
"""Of an upload to S3."""
SHA256 = "sha256"
"""Key of an object's metadata."""


def upload_file(file: RunFile, address: str, records: Path) -> None:
    """Upload a file unless it is there; what is not on S3 is uploaded whole.

    `records` is a folder on this machine, where ids of unfinished uploads are kept.

    Raises:
        BadRequest: no such file system, or no right to write there. StageFailed: it broke off.
    """
    with _open(address) as (system, path):
        if urlsplit(address).scheme in S3:
            if _read_s3_sha256(system, path) != file.sha256:
                _upload_to_s3(system, path, file, records / f"{hash_content(address)}.json")
            return
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.put_file(str(file.path), path)


def sign_address(address: str, seconds: int) -> str:
    """Return an HTTPS address by which anybody can read a file for so long: a secret.

    Raises:
        As `upload_file`.
    """
    with _open(address) as (system, path):
        return str(system.sign(path, expiration=seconds))


def write_bytes(content: bytes, address: str) -> None:
    """Write a small file.

    Raises:
        As `upload_file`.
    """
    with _open(address) as (system, path):
        if urlsplit(address).scheme not in S3:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, content)


def verify_file(file: RunFile, address: str) -> None:
    """Compare a file there with the local one: S3's by what it checked on arrival, others by reading them.

    Raises:
        StageFailed: it is missing or another. As `upload_file`.
    """
    with _open(address) as (system, path):
        if urlsplit(address).scheme in S3:
            there = _read_s3_sha256(system, path)
        else:
            with system.open(path, "rb") as content:
                there = hashlib.file_digest(content, "sha256").hexdigest()
    if there != file.sha256:
        raise StageFailed(f"{address}: has SHA-256 {there}, not {file.sha256} of {file.path}; publish again")


def remove_file(address: str) -> None:
    """Remove a file; one that is not there is no error.

    Raises:
        As `upload_file`.
    """
    with _open(address) as (system, path), contextlib.suppress(FileNotFoundError):
        system.rm_file(path)


@contextlib.contextmanager
def _open(address: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system of an address and the path in it; its errors become ours."""
    import fsspec

    try:
        options = S3_OPTIONS if urlsplit(address).scheme in S3 else {}
        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False, **options)
        yield system, path
    except ImportError as error:
        remedy = "`pip install 'tuneline[s3]'`" if urlsplit(address).scheme in S3 else "install its package"
        raise BadRequest(f"{address}: {error}; {remedy}") from None
    except ValueError as error:  # fsspec's for a scheme that it does not know
        raise BadRequest(f"{address}: {redact(str(error))}") from None
    except PermissionError as error:
        raise BadRequest(f"{address}: {redact(str(error))}; check the key in the environment, and its rights") from None
    except FileNotFoundError as error:
        raise BadRequest(f"{address}: {redact(str(error))}: no such bucket or folder") from None
    except Exception as error:
        if isinstance(error, StageFailed | BadRequest):
            raise
        reason = f"{type(error).__name__}: {redact(str(error))[:300]}"
        raise StageFailed(f"{address}: the upload broke off: {reason}; run the same command again") from None


def _read_s3_sha256(system: Any, path: str) -> str | None:
    """Return the SHA-256 that an object was uploaded with, or None: there is none, or it is of somebody else."""
    bucket, key, _ = system.split_path(path)
    try:
        head = system.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    return str(head["Metadata"].get(SHA256)) if SHA256 in head["Metadata"] else None


def _upload_to_s3(system: Any, path: str, file: RunFile, record: Path) -> None:
    bucket, key, _ = system.split_path(path)
    upload, there = _continue_upload(system, {"Bucket": bucket, "Key": key}, file, record)
    finished = []
    for part in read_parts(file.path, max(PART_BYTES, -(-file.bytes // MAX_PARTS))):
        checksum = base64.b64encode(part.sha256).decode()
        tag = there.get(part.number)
        if tag is None or tag != part.md5:
            tag = _send_part(system, upload, part, checksum)
        finished.append({"PartNumber": part.number, "ETag": f'"{tag}"', "ChecksumSHA256": checksum})
    system.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": finished})
    record.unlink(missing_ok=True)


def _send_part(system: Any, upload: Mapping[str, str], part: Part, checksum: str) -> str:
    answer = system.call_s3("upload_part", **upload, PartNumber=part.number, Body=part.content, ChecksumSHA256=checksum)
    return str(answer["ETag"]).strip('"')


def _continue_upload(
    system: Any, place: dict[str, str], file: RunFile, record: Path
) -> tuple[dict[str, str], dict[int, str]]:
    """Return the recorded upload of this content, or a new one, and number → MD5 of the parts that it has.

    An unfinished upload of other content is given up, so that its parts cost nothing.
    """
    try:
        known = json.loads(record.read_text("utf-8"))
        upload = place | {"UploadId": str(known["id"])}
        if known["sha256"] == file.sha256:
            return upload, _read_uploaded_parts(system, upload)
        system.call_s3("abort_multipart_upload", **upload)
    except (OSError, ValueError, KeyError, TypeError):  # none, damaged, or S3 has given it up
        pass
    created = system.call_s3(
        "create_multipart_upload", **place, ChecksumAlgorithm="SHA256", Metadata={SHA256: file.sha256}
    )
    record.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(record, json.dumps({"id": created["UploadId"], "sha256": file.sha256}))
    return place | {"UploadId": created["UploadId"]}, {}


def _read_uploaded_parts(system: Any, upload: Mapping[str, str]) -> dict[int, str]:
    """Return number → MD5 of the parts that an unfinished upload has; S3 lists a thousand at a time."""
    parts: dict[int, str] = {}
    marker: dict[str, int] = {}
    while True:
        answer = system.call_s3("list_parts", **upload, **marker)
        parts |= {part["PartNumber"]: part["ETag"].strip('"') for part in answer.get("Parts") or []}
        if not answer.get("IsTruncated"):
            return parts
        marker = {"PartNumberMarker": answer["NextPartNumberMarker"]}
