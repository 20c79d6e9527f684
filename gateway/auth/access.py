"""All that decides who may use the server, made from the settings."""

import time
from dataclasses import dataclass

from starlette.middleware import Middleware

from gateway.auth.guard import KeyGuard
from gateway.auth.hosts import HostCheck, host_name, is_local
from gateway.auth.key_file import KeySource, key_source
from gateway.auth.keys import KeyRing, parse_keys
from gateway.auth.limits import KeyLimits
from gateway.auth.origins import OriginCheck
from gateway.auth.rate import NO_BOUNDS, Rates
from gateway.errors import UnexpectedErrors
from gateway.settings import Settings
from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server; without arguments everybody, but for pages of other machines.

    Attributes:
        keys: the API keys; None for no keys.
        rates: what each key may use.
        origins: of web pages that may use the server, besides those of this machine.
        checks_host: whether a request's ``Host`` must be a name of this server.
        hosts: such names, besides those of any machine for itself.
    """

    keys: KeySource | None = None
    rates: Rates = NO_BOUNDS
    origins: tuple[str, ...] = ()
    checks_host: bool = False
    hosts: tuple[str, ...] = ()

    def middleware(self) -> list[Middleware]:
        """What goes around the application, outermost first."""
        # The origins are outside of the errors, so that pages can read those; all that raises is
        # inside.
        layers = [Middleware(OriginCheck, self.origins), Middleware(UnexpectedErrors)]
        if self.checks_host:
            layers.append(Middleware(HostCheck, self.hosts))
        if self.keys is not None:
            layers.append(Middleware(KeyGuard, self.keys))
        if self.rates:
            layers.append(Middleware(KeyLimits, self.rates))
        return layers


def access_for(settings: Settings) -> Access:
    """Make it from the settings; reads the file of keys, if there is one.

    Raises:
        UsageError: the keys cannot be used, or there are limits for keys but no keys.
    """
    now_s = time.monotonic()
    keys = None
    if settings.api_keys is not None:
        keys = key_source(settings.api_keys, now_s, settings.admin_key)
    if settings.admin_key is not None:
        _check_admin_key(settings.admin_key, keys.current(now_s) if keys else None)
    rates = Rates(
        settings.key_requests_per_minute,
        settings.key_tokens_per_minute,
        settings.key_concurrent_requests,
    )
    if rates and keys is None:
        raise UsageError(
            "KEY_REQUESTS_PER_MINUTE, KEY_TOKENS_PER_MINUTE and KEY_CONCURRENT_REQUESTS are limits"
            " of each key; they need API_KEYS"
        )
    return Access(
        keys=keys,
        rates=rates,
        origins=settings.cors_origins,
        checks_host="*" not in settings.allowed_hosts
        and (bool(settings.allowed_hosts) or is_loopback(settings.host)),
        hosts=settings.allowed_hosts,
    )


def _check_admin_key(admin_key: str, api_keys: KeyRing | None) -> None:
    try:
        parse_keys([("ADMIN_KEY", f"admin:{admin_key}")])
    except ValueError as error:
        raise UsageError(str(error)) from None
    if api_keys is not None and api_keys.name_of([admin_key.encode()]) is not None:
        raise UsageError("ADMIN_KEY must not be one of API_KEYS: it opens more than those")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach what listens on ``address``."""
    return is_local(address if ":" in address else host_name(address))


def exposed(settings: Settings) -> str | None:
    """What to warn of: anybody in the network may use the server; None if that is not so."""
    if settings.api_keys is not None or is_loopback(settings.host):
        return None
    return (
        f"anybody who can reach HOST={settings.host} may use this server: set API_KEYS, or"
        " HOST=127.0.0.1 for this machine only"
    )
