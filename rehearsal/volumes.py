"""Volumes: a committed state, and a copy of it for each container.

modal.com/docs/guide/volumes: a container sees the state as of its start or its last `reload()`; others see its writes
after `commit()`; a reload with open files fails, and while one lasts the Volume appears empty. A container that ends
without error commits; what a killed one had not committed is lost (Modal also commits in the background every few
seconds, but code must not rely on that).
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.checkouts import commit_checkout, has_open_files, hidden_contents, update_checkout
from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import already_exists, failed_precondition, not_found
from tuneline.rehearsal.state import Checkout, Volume

BLOCK_BYTES = 8 << 20
"""modal._utils.blob_utils: files are read and written in blocks of 8 MiB."""


class Volumes(Component):
    """RPCs of volumes."""

    async def VolumeGetOrCreate(self, request: Any, container_id: str | None) -> pb.VolumeGetOrCreateResponse:
        name = request.deployment_name or self.state.new_id("ephemeral")
        path = self.state.file("volumes", name)
        if ("volume", name) not in self.state.ids:
            creates = request.object_creation_type != pb.OBJECT_CREATION_TYPE_UNSPECIFIED
            if not creates and not path.exists():
                raise not_found(f"Volume '{name}' not found in environment 'main'")
            path.mkdir(parents=True, exist_ok=True)
            metadata = pb.VolumeMetadata(version=request.version or pb.VOLUME_FS_VERSION_V2, name=name)
            volume = Volume(self.state.new_id("vo"), name, path, metadata)
            self.state.volumes[volume.id] = volume
            self.state.ids["volume", name] = volume.id
        volume = self.state.volumes[self.state.ids["volume", name]]
        return pb.VolumeGetOrCreateResponse(
            volume_id=volume.id, version=volume.metadata.version, metadata=volume.metadata
        )

    async def VolumeGetById(self, request: Any, container_id: str | None) -> pb.VolumeGetByIdResponse:
        volume = self.state.volumes[request.volume_id]
        return pb.VolumeGetByIdResponse(volume_id=volume.id, metadata=volume.metadata)

    async def VolumeHeartbeat(self, request: Any, container_id: str | None) -> Empty:
        return Empty()

    async def VolumeList(self, request: Any, container_id: str | None) -> pb.VolumeListResponse:
        items = [
            pb.VolumeListItem(label=v.name, volume_id=v.id, metadata=v.metadata) for v in self.state.volumes.values()
        ]
        return pb.VolumeListResponse(items=items)

    async def VolumeListFiles(
        self, request: Any, container_id: str | None
    ) -> AsyncIterator[pb.VolumeListFilesResponse]:
        yield pb.VolumeListFilesResponse(entries=list(self._list_entries(request)))

    async def VolumeListFiles2(
        self, request: Any, container_id: str | None
    ) -> AsyncIterator[pb.VolumeListFiles2Response]:
        yield pb.VolumeListFiles2Response(entries=list(self._list_entries(request)))

    async def VolumeGetFile2(self, request: Any, container_id: str | None) -> pb.VolumeGetFile2Response:
        file = self.volume_path(request.volume_id, request.path)
        if not file.is_file():
            raise not_found(f"{request.path}: no such file")
        size = file.stat().st_size
        path = f"/volume/{request.volume_id}/{request.path.lstrip('/')}"
        # As many bytes as were told: a block of a Volume stays as it was when its file grows.
        starts = range(0, size, BLOCK_BYTES)
        urls = [self.signed_url(path, start=at, bytes=min(BLOCK_BYTES, size - at)) for at in starts]
        return pb.VolumeGetFile2Response(get_urls=urls, size=size, len=size)

    async def VolumePutFiles(self, request: Any, container_id: str | None) -> Empty:
        for file in request.files:
            path = self._new_path(request, file.filename)
            shutil.copy(self.state.file("files", file.sha256_hex), path)
        return Empty()

    async def VolumePutFiles2(self, request: Any, container_id: str | None) -> pb.VolumePutFiles2Response:
        """Assemble files from blocks; the client uploads the blocks that are missing and sends the list again."""
        missing = [
            pb.VolumePutFiles2Response.MissingBlock(
                file_index=i, block_index=j, put_url=self.signed_url(f"/blob/b{block.contents_sha256.hex()}")
            )
            for i, file in enumerate(request.files)
            for j, block in enumerate(file.blocks)
            if not self._block_file(block).exists()
        ]
        if not missing:
            for file in request.files:
                data = b"".join(self._block_file(block).read_bytes() for block in file.blocks)
                path = self._new_path(request, file.path)
                path.write_bytes(data.ljust(file.size, b"\0")[: file.size])
                path.chmod(file.mode or 0o644)
        return pb.VolumePutFiles2Response(missing_blocks=missing)

    async def VolumeRemoveFile2(self, request: Any, container_id: str | None) -> Empty:
        path = self.volume_path(request.volume_id, request.path)
        if not path.exists():
            raise not_found(f"{request.path}: no such file")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return Empty()

    VolumeRemoveFile = VolumeRemoveFile2

    async def VolumeDelete(self, request: Any, container_id: str | None) -> Empty:
        volume = self.state.volumes.pop(request.volume_id)
        del self.state.ids["volume", volume.name]
        shutil.rmtree(volume.path)
        return Empty()

    async def VolumeCopyFiles2(self, request: Any, container_id: str | None) -> Empty:
        target = self.volume_path(request.volume_id, request.dst_path)
        for name in request.src_paths:
            source = self.volume_path(request.volume_id, name)
            if not source.exists():
                raise not_found(f"{name}: no such file")
            copy = target / source.name if target.is_dir() else target
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, copy, dirs_exist_ok=True) if source.is_dir() else shutil.copy2(source, copy)
        return Empty()

    VolumeCopyFiles = VolumeCopyFiles2

    async def VolumeCommit(self, request: Any, container_id: str | None) -> pb.VolumeCommitResponse:
        for checkout in self._checkouts(request.volume_id, container_id):
            if not checkout.read_only:
                await self.commit(checkout)
        return pb.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: Any, container_id: str | None) -> Empty:
        for checkout in self._checkouts(request.volume_id, container_id):
            if await asyncio.to_thread(has_open_files, self.state.containers[container_id or ""], checkout.copy):
                raise failed_precondition("there are open files preventing the operation")
            with hidden_contents(checkout.copy):
                await asyncio.sleep(self.reload_seconds)
            await self.check_out(checkout)
        return Empty()

    async def commit(self, checkout: Checkout) -> None:
        """Publish what the container wrote since its last commit or reload.

        Raises:
            GRPCError: RESOURCE_EXHAUSTED if the volume is full; nothing of this commit is published.
        """
        async with checkout.volume.lock:
            await asyncio.to_thread(commit_checkout, checkout)

    async def check_out(self, checkout: Checkout) -> None:
        """Bring the container's copy up to the committed state; what it wrote and did not commit is kept."""
        async with checkout.volume.lock:
            await asyncio.to_thread(update_checkout, checkout)

    def volume_path(self, volume_id: str, path: str) -> Path:
        """Return a path in the committed state of a volume.

        Raises:
            GRPCError: NOT_FOUND, if the path leads out of the volume.
        """
        root = self.state.volumes[volume_id].path.resolve()
        resolved = (root / path.lstrip("/")).resolve()
        if not resolved.is_relative_to(root):
            raise not_found(f"{path}: no such file")
        return resolved

    def _new_path(self, request: Any, name: str) -> Path:
        path = self.volume_path(request.volume_id, name)
        if request.disallow_overwrite_existing_files and path.exists():
            raise already_exists(f"{name}: exists already; `--force` replaces it")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _block_file(self, block: Any) -> Path:
        return self.state.folder / "blobs" / f"b{block.contents_sha256.hex()}"

    def _checkouts(self, volume_id: str, container_id: str | None) -> list[Checkout]:
        container = self.state.containers.get(container_id or "")
        return [c for c in container.checkouts if c.volume.id == volume_id] if container else []

    def _list_entries(self, request: Any) -> Iterator[pb.FileEntry]:
        root = self.state.volumes[request.volume_id].path.resolve()
        path = self.volume_path(request.volume_id, request.path)
        if not path.exists():
            raise not_found(f"{request.path}: no such file or directory")
        entries = [path] if path.is_file() else sorted(path.rglob("*") if request.recursive else path.iterdir())
        for entry in entries:
            status = entry.lstat()
            kind = pb.FileEntry.DIRECTORY if entry.is_dir() else pb.FileEntry.FILE
            name = str(entry.relative_to(root))
            yield pb.FileEntry(path=name, mtime=int(status.st_mtime), size=status.st_size, type=kind)
