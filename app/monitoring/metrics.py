"""`/metrics` for Prometheus: requests, latency, pools, failures, and how far aggregates are behind.

Nothing about clients; ESCOs are named to monitoring tokens alone.
"""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app.app_state import ServicesDep
from app.auth.bearer import bearer_token
from app.errors import Forbidden, NotFound
from app.monitoring.registry import Metrics

router = APIRouter(tags=["operations"])


@router.get("/metrics", summary="Metrics for Prometheus", include_in_schema=False)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Return the metrics, in OpenMetrics if accepted; FLOWS_METRICS sets who may read them.

    It asks nobody: what is told of the database was read before.
    """
    access = services.settings.metrics
    if access == "off":
        raise NotFound()
    if access == "token":
        caller = services.verifier.verify(bearer_token(request.scope["headers"]))
        if caller.role != "grafanareader":
            raise Forbidden("Metrics need a token with the role grafanareader.")
    counters: Metrics = request.app.state.metrics
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    text = encode(counters.exposed)
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-store"})
