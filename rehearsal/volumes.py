"""Volumes: a committed state, and a view of it for each container.

modal.com/docs/guide/volumes: a container sees the state as of its start or its last `reload()`; others see its writes
after `commit()`; a reload with open files fails. A container that ends well commits; what a killed one had not
committed is lost (Modal also commits in the background every few seconds: code that needs that is not safe).
"""

import asyncio
import contextlib
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpclib
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.errors import exists, not_found, not_now
from tuneline.rehearsal.objects import Checkout, Container, Volume
from tuneline.rehearsal.part import Part
from tuneline.rehearsal.worker import processes

READ_BYTES = 8 << 20
"""modal._utils.blob_utils: files are read and written in blocks of 8 MiB."""


FOLDER = (0, 0)


class Volumes(Part):
    """RPCs of volumes."""

    async def VolumeGetOrCreate(self, request: Any, container: str | None) -> pb.VolumeGetOrCreateResponse:
        name = request.deployment_name or self.state.new_id("ephemeral")
        path = self.state.folder / "volumes" / name
        if ("volume", name) not in self.state.named:
            creates = request.object_creation_type != pb.OBJECT_CREATION_TYPE_UNSPECIFIED
            if not creates and not path.exists():
                raise not_found(f"Volume '{name}' not found in environment 'main'")
            path.mkdir(parents=True, exist_ok=True)
            metadata = pb.VolumeMetadata(version=request.version or pb.VOLUME_FS_VERSION_V2, name=name)
            volume = Volume(self.state.new_id("vo"), name, path, metadata)
            self.state.volumes[volume.id] = volume
            self.state.named["volume", name] = volume.id
        volume = self.state.volumes[self.state.named["volume", name]]
        return pb.VolumeGetOrCreateResponse(
            volume_id=volume.id, version=volume.metadata.version, metadata=volume.metadata
        )

    async def VolumeGetById(self, request: Any, container: str | None) -> pb.VolumeGetByIdResponse:
        volume = self.state.volumes[request.volume_id]
        return pb.VolumeGetByIdResponse(volume_id=volume.id, metadata=volume.metadata)

    async def VolumeHeartbeat(self, request: Any, container: str | None) -> Empty:
        return Empty()

    async def VolumeList(self, request: Any, container: str | None) -> pb.VolumeListResponse:
        items = [
            pb.VolumeListItem(label=v.name, volume_id=v.id, metadata=v.metadata) for v in self.state.volumes.values()
        ]
        return pb.VolumeListResponse(items=items)

    async def VolumeListFiles(self, request: Any, container: str | None) -> AsyncIterator[pb.VolumeListFilesResponse]:
        yield pb.VolumeListFilesResponse(entries=list(self._entries(request)))

    async def VolumeListFiles2(self, request: Any, container: str | None) -> AsyncIterator[pb.VolumeListFiles2Response]:
        yield pb.VolumeListFiles2Response(entries=list(self._entries(request)))

    async def VolumeGetFile2(self, request: Any, container: str | None) -> pb.VolumeGetFile2Response:
        file = self.path_in(request.volume_id, request.path)
        if not file.is_file():
            raise not_found(f"{request.path}: no such file")
        size = file.stat().st_size
        url = f"{self.address}/volume/{request.volume_id}/{request.path.lstrip('/')}"
        urls = [f"{url}?from={at}&bytes={READ_BYTES}" for at in range(0, size, READ_BYTES)]
        return pb.VolumeGetFile2Response(get_urls=urls, size=size, len=size)

    async def VolumePutFiles(self, request: Any, container: str | None) -> Empty:
        for file in request.files:
            path = self._new_path(request, file.filename)
            shutil.copy(self.state.folder / "files" / file.sha256_hex, path)
        return Empty()

    async def VolumePutFiles2(self, request: Any, container: str | None) -> pb.VolumePutFiles2Response:
        """The client sends the list of blocks, puts those that are missing, and sends the list again."""
        missing = [
            pb.VolumePutFiles2Response.MissingBlock(
                file_index=i, block_index=j, put_url=f"{self.address}/blob/b{block.contents_sha256.hex()}"
            )
            for i, file in enumerate(request.files)
            for j, block in enumerate(file.blocks)
            if not self._block(block).exists()
        ]
        if not missing:
            for file in request.files:
                data = b"".join(self._block(block).read_bytes() for block in file.blocks)
                path = self._new_path(request, file.path)
                path.write_bytes(data.ljust(file.size, b"\0")[: file.size])
                path.chmod(file.mode or 0o644)
        return pb.VolumePutFiles2Response(missing_blocks=missing)

    async def VolumeRemoveFile2(self, request: Any, container: str | None) -> Empty:
        path = self.path_in(request.volume_id, request.path)
        if not path.exists():
            raise not_found(f"{request.path}: no such file")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return Empty()

    VolumeRemoveFile = VolumeRemoveFile2

    async def VolumeDelete(self, request: Any, container: str | None) -> Empty:
        volume = self.state.volumes.pop(request.volume_id)
        del self.state.named["volume", volume.name]
        shutil.rmtree(volume.path)
        return Empty()

    async def VolumeCopyFiles2(self, request: Any, container: str | None) -> Empty:
        target = self.path_in(request.volume_id, request.dst_path)
        for name in request.src_paths:
            source = self.path_in(request.volume_id, name)
            if not source.exists():
                raise not_found(f"{name}: no such file")
            place = target / source.name if target.is_dir() else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, place, dirs_exist_ok=True) if source.is_dir() else shutil.copy2(source, place)
        return Empty()

    VolumeCopyFiles = VolumeCopyFiles2

    async def VolumeCommit(self, request: Any, container: str | None) -> pb.VolumeCommitResponse:
        for view in self._views(request.volume_id, container):
            if not view.read_only:
                await self.commit(view)
        return pb.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: Any, container: str | None) -> Empty:
        for view in self._views(request.volume_id, container):
            if await asyncio.to_thread(_is_open, self.state.containers[container or ""], view.copy):
                raise not_now("there are open files preventing the operation")
            await self.check_out(view)
        return Empty()

    async def commit(self, view: Checkout) -> None:
        """Publish what the container wrote since its last commit or reload.

        Raises:
            GRPCError: the volume holds no more; nothing of this commit is published.
        """
        async with view.volume.lock:
            await asyncio.to_thread(_commit, view)

    async def check_out(self, view: Checkout) -> None:
        """Show the container the committed state; what it wrote and did not commit stays."""
        async with view.volume.lock:
            await asyncio.to_thread(_check_out, view)

    def path_in(self, volume_id: str, path: str) -> Path:
        """A path in the committed state of a volume; one that leads out of it is refused."""
        root = self.state.volumes[volume_id].path.resolve()
        found = (root / path.lstrip("/")).resolve()
        if not found.is_relative_to(root):
            raise not_found(f"{path}: no such file")
        return found

    def _new_path(self, request: Any, name: str) -> Path:
        path = self.path_in(request.volume_id, name)
        if request.disallow_overwrite_existing_files and path.exists():
            raise exists(f"{name}: exists already; `--force` replaces it")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _block(self, block: Any) -> Path:
        return self.state.folder / "blobs" / f"b{block.contents_sha256.hex()}"

    def _views(self, volume_id: str, container: str | None) -> list[Checkout]:
        known = self.state.containers.get(container or "")
        return [view for view in known.checkouts if view.volume.id == volume_id] if known else []

    def _entries(self, request: Any) -> Iterator[pb.FileEntry]:
        root = self.state.volumes[request.volume_id].path.resolve()
        path = self.path_in(request.volume_id, request.path)
        if not path.exists():
            raise not_found(f"{request.path}: no such file or directory")
        found = [path] if path.is_file() else sorted(path.rglob("*") if request.recursive else path.iterdir())
        for entry in found:
            status = entry.lstat()
            kind = pb.FileEntry.DIRECTORY if entry.is_dir() else pb.FileEntry.FILE
            name = str(entry.relative_to(root))
            yield pb.FileEntry(path=name, mtime=int(status.st_mtime), size=status.st_size, type=kind)


def _commit(view: Checkout) -> None:
    now, committed = _files(view.copy), view.volume.path
    seen = view.seen or {}
    changed = [name for name, stamp in now.items() if seen.get(name) != stamp]
    if view.volume.most_bytes is not None:
        kept = sum(size for name, (_, size) in _files(committed).items() if name not in now)
        if kept + sum(size for _, size in now.values()) > view.volume.most_bytes:
            raise grpclib.GRPCError(grpclib.Status.RESOURCE_EXHAUSTED, f"Volume '{view.volume.name}' is full")
    _remove(committed, seen.keys() - now.keys())
    for name in changed:
        if now[name] == FOLDER:
            (committed / name).mkdir(parents=True, exist_ok=True)
            continue
        (committed / name).parent.mkdir(parents=True, exist_ok=True)
        passing = committed / f"{name}.~"
        shutil.copy2(view.copy / name, passing, follow_symlinks=False)
        passing.replace(committed / name)
    view.seen = now


def _check_out(view: Checkout) -> None:
    there, here, seen = _files(view.volume.path), _files(view.copy), view.seen or {}
    mine = {name for name, stamp in here.items() if seen.get(name) != stamp}
    """Written here and not committed."""
    _remove(view.copy, here.keys() - there.keys() - mine)
    for name, stamp in there.items():
        if stamp == FOLDER:
            (view.copy / name).mkdir(parents=True, exist_ok=True)
        elif name not in mine and here.get(name) != stamp:
            (view.copy / name).parent.mkdir(parents=True, exist_ok=True)
            passing = view.copy / f"{name}.~"
            shutil.copy2(view.volume.path / name, passing, follow_symlinks=False)
            passing.replace(view.copy / name)
    now = _files(view.copy)
    view.seen = {name: stamp for name, stamp in now.items() if name not in mine} | {
        name: seen[name] for name in mine if name in seen
    }


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below `folder`: modification time (ns) and size of files, FOLDER for folders."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        is_folder = stat.S_ISDIR(status.st_mode)
        found[str(path.relative_to(folder))] = FOLDER if is_folder else (status.st_mtime_ns, status.st_size)
    return found


def _remove(root: Path, names: set[str]) -> None:
    """Files, and folders that are empty then; the deepest first."""
    for name in sorted(names, key=lambda name: -name.count("/")):
        path = root / name
        with contextlib.suppress(OSError):  # a folder in which others have put something stays
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_open(container: Container, folder: Path) -> bool:
    """Whether the container has a file below `folder` open. Paths differ between mount namespaces, inodes do not."""
    inodes = {(s.st_dev, s.st_ino) for s in (p.lstat() for p in folder.rglob("*") if p.is_file())}
    for descriptor in (found for process in processes(container) for found in process.glob("fd/*")):
        try:
            status = descriptor.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in inodes:
            return True
    return False
