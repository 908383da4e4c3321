"""Files that clients read in parts: each is made once, not once for each part."""

from collections import OrderedDict

from starlette.requests import Request

MOST_BYTES = 64 * 2**20


class FileCache:
    """The newest files by ETag; a tag names its caller and the version of the data."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, tag: str) -> bytes | None:
        """Return the file of an ETag, if it is kept."""
        return self._files.get(tag)

    def keep(self, tag: str, content: bytes) -> None:
        """Keep a file; the oldest are dropped when all are larger than `MOST_BYTES`."""
        self._bytes += len(content) - len(self._files.pop(tag, b""))
        self._files[tag] = content
        while self._bytes > MOST_BYTES:
            _, dropped = self._files.popitem(last=False)
            self._bytes -= len(dropped)


def file_cache(request: Request) -> FileCache:
    """Return the files of the application."""
    state = request.app.state
    if not hasattr(state, "report_files"):
        state.report_files = FileCache()
    files: FileCache = state.report_files
    return files
