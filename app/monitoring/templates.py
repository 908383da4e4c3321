"""Route templates for the metrics' labels: one of few values, whatever callers request."""

from collections.abc import Iterable
from functools import lru_cache

from starlette.routing import compile_path

REST = "/rest/v1/"
UNMATCHED = "unmatched"
CACHED_PATHS = 4096


class RouteTemplates:
    """Finds the template of a path, also if the request is refused before it is routed."""

    def __init__(self, templates: Iterable[str]) -> None:
        """Take templates as of FastAPI: `/admin/clients/{id}`, `{rest:path}` for several parts."""
        found = list(dict.fromkeys(templates))
        self._exact = {template: template for template in found if "{" not in template}
        self._patterns = [compile_path(template)[:2] for template in found if "{" in template]
        # Without the cache a path with an id costs a comparison with each pattern.
        self.find = lru_cache(maxsize=CACHED_PATHS)(self._find)

    def _find(self, path: str) -> str:
        """Return the template of a path; `unmatched` if no route has it."""
        if path.startswith(REST):
            return _of_postgrest(path[len(REST) :])
        if exact := self._exact.get(path):
            return exact
        return next(
            (text for pattern, text in self._patterns if pattern.fullmatch(path)), UNMATCHED
        )


def _of_postgrest(target: str) -> str:
    """Return the template of a path below /rest/v1/, without names of relations and functions."""
    if target.startswith("rpc/"):
        return f"{REST}rpc/{{function}}"
    return f"{REST}{{relation}}" if target else REST
