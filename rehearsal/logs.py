"""What containers print: followed while it comes, and read later by `modal app logs`."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from modal_proto import api_pb2 as pb

from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.objects import App, Container
from tuneline.rehearsal.part import Part


class Logs(Part):
    """RPCs of logs."""

    async def AppGetLogs(self, request: Any, container: str | None) -> AsyncIterator[pb.TaskLogsBatch]:
        """Logs from an entry on, for `timeout` seconds; the last message of an app that ended says so."""
        app = self._app(request.app_id)
        at = int(request.last_entry_id.split("-")[0] or 0) if request.last_entry_id else 0
        end = time.time() + (request.timeout or 0.01)
        while True:
            while at < len(app.logs):
                batch = pb.TaskLogsBatch()
                batch.CopyFrom(app.logs[at])
                at += 1
                batch.entry_id = f"{at}-0"
                if _wanted(batch, request):
                    yield batch
            if app.done:
                yield pb.TaskLogsBatch(app_done=True)
                return
            if (left := end - time.time()) <= 0:
                return
            here = at
            await self.state.wait_for(lambda here=here: len(app.logs) > here or app.done, left)

    async def AppFetchLogs(self, request: Any, container: str | None) -> pb.AppFetchLogsResponse:
        """The last `limit` entries between two times (modal._logs.tail_logs asks for ever longer spans)."""
        found = list(_between(self._app(request.app_id), request))
        return pb.AppFetchLogsResponse(batches=found[-request.limit :] if request.limit else found)

    async def AppCountLogs(self, request: Any, container: str | None) -> pb.AppCountLogsResponse:
        """How many entries each bucket of time has, oldest first."""
        buckets: dict[int, pb.AppCountLogsResponse.LogBucket] = {}
        width = request.bucket_secs or 1
        for batch in _between(self._app(request.app_id), request):
            start = int(batch.items[0].timestamp) // width * width
            bucket = buckets.setdefault(start, pb.AppCountLogsResponse.LogBucket())
            bucket.bucket_start_at.seconds = start
            bucket.stdout_logs += len(batch.items)
        return pb.AppCountLogsResponse(buckets=[buckets[start] for start in sorted(buckets)])

    async def log(self, container: Container, text: str, channel: Any) -> None:
        line = pb.TaskLogs(data=text, timestamp=time.time(), file_descriptor=channel)
        batch = pb.TaskLogsBatch(task_id=container.id, function_id=container.function.id, items=[line])
        container.function.app.logs.append(batch)
        self.state.tell()

    def _app(self, app_id: str) -> App:
        if app_id not in self.state.apps:
            raise not_found(f"App '{app_id}' not found")
        return self.state.apps[app_id]


def _between(app: App, request: Any) -> Iterator[pb.TaskLogsBatch]:
    since, until = (moment.seconds + moment.nanos / 1e9 for moment in (request.since, request.until))
    for batch in app.logs:
        # The client's "now" is cut to the second below; what was printed within it is meant as well.
        line = batch.items[0]
        if since <= line.timestamp < until + 1 and _wanted(batch, request) and request.search_text in line.data:
            yield batch


def _wanted(batch: pb.TaskLogsBatch, request: Any) -> bool:
    channel = getattr(request, "source", 0) or getattr(request, "file_descriptor", 0)
    return (
        request.function_id in ("", batch.function_id)
        and request.task_id in ("", batch.task_id)
        and channel in (0, batch.items[0].file_descriptor)
    )
