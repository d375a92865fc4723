"""Mounted files, images, blobs and secrets: stored by the client and looked up later."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.core.files import write_atomic
from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import already_exists, not_found

IMAGE_PYTHON = "3.12.0"


class Stores(Component):
    """RPCs of mounts, images, blobs and secrets."""

    async def MountBatchedCheckExistence(self, request: Any, container_id: str | None) -> Any:
        missing = [h for h in request.sha256_hex_hashes if not (self.state.folder / "files" / h).exists()]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Any, container_id: str | None) -> pb.MountPutFileResponse:
        file = self.state.file("files", request.sha256_hex)
        match request.WhichOneof("data_oneof"):
            case "data":
                file.write_bytes(request.data)
            case "data_blob_id":
                shutil.copy(self.state.file("blobs", request.data_blob_id), file)
        return pb.MountPutFileResponse(exists=file.exists())

    async def MountGetOrCreate(self, request: Any, container_id: str | None) -> pb.MountGetOrCreateResponse:
        """Record a mount; a named one (the client's own dependencies) is empty, as they are installed here."""
        mount_id = self.state.new_id("mo")
        self.state.mounts[mount_id] = list(request.files)
        checksum = hashlib.sha256("".join(sorted(file.sha256_hex for file in request.files)).encode()).hexdigest()
        metadata = pb.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return pb.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def ImageGetOrCreate(self, request: Any, container_id: str | None) -> pb.ImageGetOrCreateResponse:
        """Record an image; it is not built."""
        digest = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        image_id = f"im-{digest[:22]}"
        self.state.images[image_id] = request.image
        metadata = pb.ImageMetadata(python_version_info=IMAGE_PYTHON, image_builder_version=request.builder_version)
        result = pb.GenericResult(status=pb.GenericResult.GENERIC_STATUS_SUCCESS)
        return pb.ImageGetOrCreateResponse(image_id=image_id, result=result, metadata=metadata)

    def layers(self, image_id: str) -> list[str]:
        """Return all Dockerfile commands of an image and the files they copy in, those of its base images first."""
        image = self.state.images.get(image_id)
        if image is None:
            return []
        base_commands = [command for base in image.base_images for command in self.layers(base.image_id)]
        files = [file.data.decode(errors="replace") for file in image.context_files]
        return [*base_commands, *image.dockerfile_commands, *files]

    async def BlobCreate(self, request: Any, container_id: str | None) -> pb.BlobCreateResponse:
        blob_id = self.state.new_id("bl")
        url = self.signed_url(f"/blob/{blob_id}")
        urls = pb.UploadUrlList(items=[url])
        return pb.BlobCreateResponse(blob_id=blob_id, upload_url=url, blob_ids=[blob_id], upload_urls=urls)

    async def BlobGet(self, request: Any, container_id: str | None) -> pb.BlobGetResponse:
        return pb.BlobGetResponse(download_url=self.signed_url(f"/blob/{request.blob_id}"))

    async def SecretGetOrCreate(self, request: Any, container_id: str | None) -> pb.SecretGetOrCreateResponse:
        """Return a secret; a named one is `secrets/NAME.json` in the state folder.

        That file is written by `modal secret create`, or by hand.
        """
        values = self._named_secret(request) if request.deployment_name else dict(request.env_dict)
        if missing := [key for key in request.required_keys if key not in values]:
            raise not_found(f"Secret '{request.deployment_name}' is missing key(s): {', '.join(missing)}")
        secret_id = self.state.new_id("st")
        self.state.secrets[secret_id] = values
        self.state.secret_names[secret_id] = request.deployment_name
        return pb.SecretGetOrCreateResponse(secret_id=secret_id, metadata=self._secret_metadata(secret_id))

    def _named_secret(self, request: Any) -> dict[str, str]:
        """Return a named secret's values, after writing those of the request if it has any."""
        file = self._secret_file(request.deployment_name)
        if not request.env_dict and not file.exists():
            raise not_found(f"Secret '{request.deployment_name}' not found in environment 'main'")
        if request.env_dict:
            if file.exists() and request.object_creation_type == pb.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
                raise already_exists(f"Secret '{request.deployment_name}' exists already; `--force` replaces it")
            write_atomic(file, json.dumps(dict(request.env_dict)), private=True)
        values: dict[str, str] = json.loads(file.read_text())
        return values

    async def SecretGetInfo(self, request: Any, container_id: str | None) -> pb.SecretGetInfoResponse:
        return pb.SecretGetInfoResponse(metadata=self._secret_metadata(request.secret_id))

    async def SecretList(self, request: Any, container_id: str | None) -> pb.SecretListResponse:
        items = []
        for file in sorted((self.state.folder / "secrets").glob("*.json")):
            creation = pb.CreationInfo(created_at=file.stat().st_mtime, created_by="rehearsal")
            metadata = pb.SecretMetadata(name=file.stem, creation_info=creation)
            items.append(pb.SecretListItem(label=file.stem, secret_id=f"st-{file.stem}", metadata=metadata))
        return pb.SecretListResponse(items=items, environment_name="main")

    async def SecretDelete(self, request: Any, container_id: str | None) -> Empty:
        self._secret_file(self.state.secret_names[request.secret_id]).unlink(missing_ok=True)
        return Empty()

    def _secret_metadata(self, secret_id: str) -> pb.SecretMetadata:
        """Return a secret's name and keys, never its values: only containers get those."""
        return pb.SecretMetadata(name=self.state.secret_names[secret_id], keys=sorted(self.state.secrets[secret_id]))

    def _secret_file(self, name: str) -> Path:
        return self.state.file("secrets", f"{name}.json")
