"""Files, images, secrets and dicts: what is put in by the client and looked up later."""

import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from rehearsal.errors import not_found
from rehearsal.part import Part

PYTHON_OF_IMAGES = "3.12.0"


class Stores(Part):
    """RPCs of mounts, images, blobs, secrets and dicts."""

    async def MountBatchedCheckExistence(self, request: Any, container: str | None) -> Any:
        missing = [h for h in request.sha256_hex_hashes if not (self.state.folder / "files" / h).exists()]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Any, container: str | None) -> pb.MountPutFileResponse:
        file = self.state.folder / "files" / request.sha256_hex
        match request.WhichOneof("data_oneof"):
            case "data":
                file.write_bytes(request.data)
            case "data_blob_id":
                shutil.copy(self.state.folder / "blobs" / request.data_blob_id, file)
        return pb.MountPutFileResponse(exists=file.exists())

    async def MountGetOrCreate(self, request: Any, container: str | None) -> pb.MountGetOrCreateResponse:
        """A named mount (the client's own dependencies) is empty: they are installed here."""
        mount_id = self.state.new_id("mo")
        self.state.mounts[mount_id] = list(request.files)
        checksum = hashlib.sha256("".join(sorted(file.sha256_hex for file in request.files)).encode()).hexdigest()
        metadata = pb.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return pb.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def ImageGetOrCreate(self, request: Any, container: str | None) -> pb.ImageGetOrCreateResponse:
        """Recorded, not built."""
        digest = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        image_id = f"im-{digest[:22]}"
        self.state.images[image_id] = request.image
        metadata = pb.ImageMetadata(python_version_info=PYTHON_OF_IMAGES, image_builder_version=request.builder_version)
        result = pb.GenericResult(status=pb.GenericResult.GENERIC_STATUS_SUCCESS)
        return pb.ImageGetOrCreateResponse(image_id=image_id, result=result, metadata=metadata)

    def layers(self, image_id: str) -> list[str]:
        """All Dockerfile commands of an image, its bases' first."""
        image = self.state.images.get(image_id)
        if image is None:
            return []
        below = [command for base in image.base_images for command in self.layers(base.image_id)]
        return below + list(image.dockerfile_commands)

    async def BlobCreate(self, request: Any, container: str | None) -> pb.BlobCreateResponse:
        blob_id = self.state.new_id("bl")
        url = f"{self.address}/blob/{blob_id}"
        urls = pb.UploadUrlList(items=[url])
        return pb.BlobCreateResponse(blob_id=blob_id, upload_url=url, blob_ids=[blob_id], upload_urls=urls)

    async def BlobGet(self, request: Any, container: str | None) -> pb.BlobGetResponse:
        return pb.BlobGetResponse(download_url=f"{self.address}/blob/{request.blob_id}")

    async def SecretGetOrCreate(self, request: Any, container: str | None) -> pb.SecretGetOrCreateResponse:
        """A named secret is `secrets/NAME.json` of the state folder; made by `modal secret create` or by hand."""
        file = self.state.folder / "secrets" / f"{request.deployment_name}.json"
        if not request.deployment_name:
            values = dict(request.env_dict)
        elif request.env_dict:
            values = dict(request.env_dict)
            file.write_text(json.dumps(values))
            file.chmod(0o600)
        elif file.exists():
            values = json.loads(file.read_text())
        else:
            raise not_found(f"Secret '{request.deployment_name}' not found in environment 'main'")
        if missing := [key for key in request.required_keys if key not in values]:
            raise not_found(f"Secret '{request.deployment_name}' is missing key(s): {', '.join(missing)}")
        secret_id = self.state.new_id("st")
        self.state.secrets[secret_id] = values
        return pb.SecretGetOrCreateResponse(secret_id=secret_id)

    async def DictGetOrCreate(self, request: Any, container: str | None) -> pb.DictGetOrCreateResponse:
        key = ("dict", request.deployment_name or self.state.new_id("ephemeral"))
        if key not in self.state.named:
            if request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found(f"Dict '{request.deployment_name}' not found in environment 'main'")
            self.state.named[key] = self.state.new_id("di")
            self.state.dicts[self.state.named[key]] = {}
        metadata = pb.DictMetadata(name=request.deployment_name)
        return pb.DictGetOrCreateResponse(dict_id=self.state.named[key], metadata=metadata)

    async def DictUpdate(self, request: Any, container: str | None) -> pb.DictUpdateResponse:
        """`if_not_exists` writes only what is absent, and says whether it did: the one atomic write of a Dict."""
        entries, created = self.state.dicts[request.dict_id], False
        for update in request.updates:
            if not (request.if_not_exists and update.key in entries):
                entries[update.key] = update.value
                created = True
        return pb.DictUpdateResponse(created=created)

    async def DictGet(self, request: Any, container: str | None) -> pb.DictGetResponse:
        entries = self.state.dicts[request.dict_id]
        return pb.DictGetResponse(found=request.key in entries, value=entries.get(request.key))

    async def DictPop(self, request: Any, container: str | None) -> pb.DictPopResponse:
        entries = self.state.dicts[request.dict_id]
        return pb.DictPopResponse(found=request.key in entries, value=entries.pop(request.key, None))

    async def DictContains(self, request: Any, container: str | None) -> pb.DictContainsResponse:
        return pb.DictContainsResponse(found=request.key in self.state.dicts[request.dict_id])

    async def DictLen(self, request: Any, container: str | None) -> pb.DictLenResponse:
        return pb.DictLenResponse(len=len(self.state.dicts[request.dict_id]))

    async def DictClear(self, request: Any, container: str | None) -> Empty:
        self.state.dicts[request.dict_id].clear()
        return Empty()

    async def DictContents(self, request: Any, container: str | None) -> AsyncIterator[pb.DictEntry]:
        for key, value in list(self.state.dicts[request.dict_id].items()):
            yield pb.DictEntry(key=key if request.keys else b"", value=value if request.values else b"")

    async def DictHeartbeat(self, request: Any, container: str | None) -> Empty:
        return Empty()
