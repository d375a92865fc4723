"""Logs of containers: streamed while they run, and read later by `modal app logs`."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.state import App, Container


class Logs(Component):
    """RPCs of logs."""

    async def AppGetLogs(self, request: Any, container_id: str | None) -> AsyncIterator[pb.TaskLogsBatch]:
        """Stream logs from an entry on, for `timeout` seconds; the last message of an ended app says so."""
        app = self._app(request.app_id)
        position = int(request.last_entry_id.split("-")[0] or 0) if request.last_entry_id else 0
        end = time.time() + (request.timeout or 0.01)
        while True:
            while position < len(app.logs):
                batch = pb.TaskLogsBatch()
                batch.CopyFrom(app.logs[position])
                position += 1
                batch.entry_id = f"{position}-0"
                if _matches(batch, request):
                    yield batch
            if app.done:
                yield pb.TaskLogsBatch(app_done=True)
                return
            if (remaining_s := end - time.time()) <= 0:
                return
            sent = position
            await self.state.wait_for(lambda sent=sent: len(app.logs) > sent or app.done, remaining_s)

    async def AppFetchLogs(self, request: Any, container_id: str | None) -> pb.AppFetchLogsResponse:
        """Return the last `limit` entries between two times (modal._logs.tail_logs requests ever longer spans)."""
        batches = list(_between(self._app(request.app_id), request))
        return pb.AppFetchLogsResponse(batches=batches[-request.limit :] if request.limit else batches)

    async def AppCountLogs(self, request: Any, container_id: str | None) -> pb.AppCountLogsResponse:
        """Return the number of entries in each time bucket, oldest first."""
        buckets: dict[int, pb.AppCountLogsResponse.LogBucket] = {}
        width = request.bucket_secs or 1
        for batch in _between(self._app(request.app_id), request):
            start = int(batch.items[0].timestamp) // width * width
            bucket = buckets.setdefault(start, pb.AppCountLogsResponse.LogBucket())
            bucket.bucket_start_at.seconds = start
            bucket.stdout_logs += len(batch.items)
        return pb.AppCountLogsResponse(buckets=[buckets[start] for start in sorted(buckets)])

    async def log(self, container: Container, text: str, channel: Any) -> None:
        """Append to the app's log; `channel` is a `pb.FileDescriptor`."""
        line = pb.TaskLogs(data=text, timestamp=time.time(), file_descriptor=channel)
        batch = pb.TaskLogsBatch(task_id=container.id, function_id=container.function.id, items=[line])
        container.function.app.logs.append(batch)
        self.state.notify()

    def _app(self, app_id: str) -> App:
        if app_id not in self.state.apps:
            raise not_found(f"App '{app_id}' not found")
        return self.state.apps[app_id]


def _between(app: App, request: Any) -> Iterator[pb.TaskLogsBatch]:
    since, until = (moment.seconds + moment.nanos / 1e9 for moment in (request.since, request.until))
    for batch in app.logs:
        # The client truncates its "now" to whole seconds; lines printed within that second are included.
        line = batch.items[0]
        if since <= line.timestamp < until + 1 and _matches(batch, request) and request.search_text in line.data:
            yield batch


def _matches(batch: pb.TaskLogsBatch, request: Any) -> bool:
    channel = getattr(request, "source", 0) or getattr(request, "file_descriptor", 0)
    return (
        request.function_id in ("", batch.function_id)
        and request.task_id in ("", batch.task_id)
        and channel in (0, batch.items[0].file_descriptor)
    )
