"""Who may use the server, from where, and how much: middleware around the application."""

from starlette.middleware import Middleware

from gateway.auth.keys import ApiKeys, KeyGuard, key_problem
from gateway.auth.limits import KeyLimits, Rates
from gateway.auth.origins import HostCheck, OriginCheck, host_name, is_loopback
from gateway.errors import UnexpectedErrors
from gateway.settings import Settings
from shared.errors import UsageError


def access_for(settings: Settings) -> list[Middleware]:
    """What goes around the application, outermost first; reads the file of keys, if there is one.

    Raises:
        UsageError: the keys cannot be used, or there are limits for keys but no keys.
    """
    # The origins are outside of the errors, so that pages can read those; all that raises is
    # inside.
    layers = [Middleware(OriginCheck, settings.cors_origins), Middleware(UnexpectedErrors)]
    hosts = settings.allowed_hosts
    if "*" not in hosts and (hosts or is_for_this_machine(settings.host)):
        layers.append(Middleware(HostCheck, hosts))
    admin_key = settings.admin_key
    if admin_key is not None and (problem := key_problem("admin", admin_key)):
        raise UsageError(f"ADMIN_KEY: {problem}")
    if settings.api_keys is not None:
        layers.append(Middleware(KeyGuard, ApiKeys(settings.api_keys, admin_key)))
    rates = Rates(
        settings.key_requests_per_minute,
        settings.key_tokens_per_minute,
        settings.key_concurrent_requests,
    )
    if rates and settings.api_keys is None:
        raise UsageError(
            "KEY_REQUESTS_PER_MINUTE, KEY_TOKENS_PER_MINUTE and KEY_CONCURRENT_REQUESTS are limits"
            " of each key; they need API_KEYS"
        )
    if rates:
        layers.append(Middleware(KeyLimits, rates))
    return layers


def is_for_this_machine(address: str) -> bool:
    """Whether only this machine can reach what listens on ``address``."""
    return is_loopback(address if ":" in address else host_name(address))


def exposed(settings: Settings) -> str | None:
    """What to warn of: anybody in the network may use the server; None if that is not so."""
    if settings.api_keys is not None or is_for_this_machine(settings.host):
        return None
    return (
        f"anybody who can reach HOST={settings.host} may use this server: set API_KEYS, or"
        " HOST=127.0.0.1 for this machine only"
    )
