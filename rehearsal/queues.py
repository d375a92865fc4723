"""Dicts and queues."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import exhausted, not_found

MAX_PARTITION_ITEMS = 5_000
"""modal.com/docs/guide/queues."""


class Queues(Component):
    """RPCs of dicts and queues."""

    async def DictGetOrCreate(self, request: Any, container_id: str | None) -> pb.DictGetOrCreateResponse:
        dict_id, new = self.get_or_create_id("dict", "di", request)
        if new:
            self.state.dicts[dict_id] = {}
        return pb.DictGetOrCreateResponse(dict_id=dict_id, metadata=pb.DictMetadata(name=request.deployment_name))

    async def DictUpdate(self, request: Any, container_id: str | None) -> pb.DictUpdateResponse:
        """Write entries; `if_not_exists` writes absent keys only and reports it: the one atomic write of a Dict."""
        entries, created = self.state.dicts[request.dict_id], False
        for update in request.updates:
            if not (request.if_not_exists and update.key in entries):
                entries[update.key] = update.value
                created = True
        return pb.DictUpdateResponse(created=created)

    async def DictGet(self, request: Any, container_id: str | None) -> pb.DictGetResponse:
        entries = self.state.dicts[request.dict_id]
        return pb.DictGetResponse(found=request.key in entries, value=entries.get(request.key))

    async def DictPop(self, request: Any, container_id: str | None) -> pb.DictPopResponse:
        entries = self.state.dicts[request.dict_id]
        return pb.DictPopResponse(found=request.key in entries, value=entries.pop(request.key, None))

    async def DictContains(self, request: Any, container_id: str | None) -> pb.DictContainsResponse:
        return pb.DictContainsResponse(found=request.key in self.state.dicts[request.dict_id])

    async def DictLen(self, request: Any, container_id: str | None) -> pb.DictLenResponse:
        return pb.DictLenResponse(len=len(self.state.dicts[request.dict_id]))

    async def DictClear(self, request: Any, container_id: str | None) -> Empty:
        self.state.dicts[request.dict_id].clear()
        return Empty()

    async def DictDelete(self, request: Any, container_id: str | None) -> Empty:
        del self.state.dicts[request.dict_id]
        self.forget_name(request.dict_id)
        return Empty()

    async def DictContents(self, request: Any, container_id: str | None) -> AsyncIterator[pb.DictEntry]:
        for key, value in list(self.state.dicts[request.dict_id].items()):
            yield pb.DictEntry(key=key if request.keys else b"", value=value if request.values else b"")

    async def DictList(self, request: Any, container_id: str | None) -> pb.DictListResponse:
        infos = [
            pb.DictListResponse.DictInfo(name=name, dict_id=dict_id, metadata=pb.DictMetadata(name=name))
            for name, dict_id in self.list_named("dict")
        ]
        return pb.DictListResponse(dicts=infos, environment_name="main")

    async def QueueGetOrCreate(self, request: Any, container_id: str | None) -> pb.QueueGetOrCreateResponse:
        queue_id, new = self.get_or_create_id("queue", "qu", request)
        if new:
            self.state.queues[queue_id] = defaultdict(list)
        return pb.QueueGetOrCreateResponse(queue_id=queue_id, metadata=pb.QueueMetadata(name=request.deployment_name))

    async def QueuePut(self, request: Any, container_id: str | None) -> Empty:
        items = self.state.queues[request.queue_id][request.partition_key]
        if len(items) + len(request.values) > MAX_PARTITION_ITEMS:
            raise exhausted("the partition of the queue is full")
        for value in request.values:
            items.append((self.state.new_id("qe"), value))
        self.state.notify()
        return Empty()

    async def QueueGet(self, request: Any, container_id: str | None) -> pb.QueueGetResponse:
        """Remove and return the oldest `n_values`; waits up to `timeout` for the first."""
        partitions = self.state.queues[request.queue_id]
        await self.state.wait_for(lambda: partitions[request.partition_key], max(request.timeout, 0.001))
        items, count = partitions[request.partition_key], request.n_values or 1
        oldest, items[:count] = items[:count], []
        return pb.QueueGetResponse(values=[value for _, value in oldest])

    async def QueueNextItems(self, request: Any, container_id: str | None) -> pb.QueueNextItemsResponse:
        """Return the items after an entry without removing them."""
        partitions, end = self.state.queues[request.queue_id], time.time() + request.item_poll_timeout
        newer = lambda: [i for i in partitions[request.partition_key] if i[0] > request.last_entry_id]  # noqa: E731
        items = await self.state.wait_for(newer, max(end - time.time(), 0.001))
        return pb.QueueNextItemsResponse(items=[pb.QueueItem(value=value, entry_id=entry) for entry, value in items])

    async def QueueLen(self, request: Any, container_id: str | None) -> pb.QueueLenResponse:
        partitions = self.state.queues[request.queue_id]
        lists = partitions.values() if request.total else [partitions[request.partition_key]]
        return pb.QueueLenResponse(len=sum(len(items) for items in lists))

    async def QueueClear(self, request: Any, container_id: str | None) -> Empty:
        partitions = self.state.queues[request.queue_id]
        for key in list(partitions) if request.all_partitions else [request.partition_key]:
            partitions[key].clear()
        return Empty()

    async def QueueDelete(self, request: Any, container_id: str | None) -> Empty:
        del self.state.queues[request.queue_id]
        self.forget_name(request.queue_id)
        return Empty()

    async def QueueList(self, request: Any, container_id: str | None) -> pb.QueueListResponse:
        infos = [
            pb.QueueListResponse.QueueInfo(
                name=name,
                queue_id=queue_id,
                num_partitions=len(self.state.queues[queue_id]),
                total_size=sum(len(items) for items in self.state.queues[queue_id].values()),
                metadata=pb.QueueMetadata(name=name),
            )
            for name, queue_id in self.list_named("queue")
        ]
        return pb.QueueListResponse(queues=infos, environment_name="main")

    def get_or_create_id(self, kind: str, prefix: str, request: Any) -> tuple[str, bool]:
        """Return the id of a named or ephemeral object, and whether it is new.

        Raises:
            GRPCError: NOT_FOUND, if it does not exist and is not to be created.
        """
        name = request.deployment_name or self.state.new_id("ephemeral")
        if (kind, name) in self.state.ids:
            return self.state.ids[kind, name], False
        if request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise not_found(f"{kind.capitalize()} '{name}' not found in environment 'main'")
        self.state.ids[kind, name] = object_id = self.state.new_id(prefix)
        return object_id, True

    def list_named(self, kind: str) -> list[tuple[str, str]]:
        """Return (name, id) of every named object of a kind; ephemeral ones are left out."""
        return [(key[1], i) for key, i in self.state.ids.items() if key[0] == kind and "ephemeral-" not in key[1]]

    def forget_name(self, object_id: str) -> None:
        self.state.ids = {key: i for key, i in self.state.ids.items() if i != object_id}
