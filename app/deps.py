"""What a route asks for in its signature: `Annotated` aliases over FastAPI dependencies.

Dependencies are coroutines even where they wait for nothing: FastAPI runs others in threads, and
handing them over costs more than they do.
"""

from typing import Annotated

from fastapi import Depends, Request

from app.services import Services


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
