"""The HTTP side of a server: its application on its port, as the settings say."""

from __future__ import annotations

import logging

from cass_server.config.settings import Settings
from cass_server.http.application import HttpApplication
from cass_server.http.listener import Listener
from cass_server.rpc.servicer import Host
from cass_server.security.tls import http_context

_log = logging.getLogger(__name__)


class HttpServer:
    """Answers over HTTP from the time it is made until `stop`: a `servicer.Listener`."""

    def __init__(self, application: HttpApplication, listener: Listener) -> None:
        self.close = application.close
        self.stop = listener.stop


def serve_http(settings: Settings, host: Host, *, shared: bool) -> HttpServer:
    """Serves by a server's request layer on the port of the settings.

    Args:
        settings: with a ``http_port``.
        host: the server.
        shared: whether other processes listen on the port too.

    Raises:
        CassError: the address cannot be listened on, or a file of TLS cannot be used.
    """
    origins = settings.http_origins.split(",") if settings.http_origins else ()
    application = HttpApplication(host.answerer, host.allows, origins, host.is_serving)
    listener = Listener(
        application,
        settings.host,
        settings.http_port or 0,
        limits=host.limits,
        tls=http_context(settings, "HTTP"),
        shared=shared,
    )
    if not shared:
        _log.info("http", extra={"address": listener.address})
    return HttpServer(application, listener)
