"""Asks a vault, through hvac and in threads of its own: a vault that hangs stops nobody else.

hvac is synchronous. Its client holds a token that changes under whoever shares it, looks for `VAULT_TOKEN`
and `~/.vault-token`, and follows redirects with the token. So every request has one of hvac's adapters to
itself, with the token that it shall have and no other, over one session that reads no environment.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import requests
from hvac import exceptions as refusals
from hvac.adapters import RawAdapter
from pydantic import BaseModel, SecretStr
from requests import adapters

from toolgate.backends.vault.mounts import Mount, Quiet
from toolgate.backends.vault.replies import Reply, VaultFault
from toolgate.core.vault_settings import VaultSettings

log = logging.getLogger(__name__)

CALL_HEADER: Final = "X-Toolgate-Call"
"""The call's id, for a vault whose audit log is told to keep it."""


class _Envelope(BaseModel):
    """Every answer of a vault's API."""

    request_id: str = ""
    data: dict[str, Any] | None = None
    auth: dict[str, Any] | None = None
    lease_id: str = ""
    lease_duration: int = 0


class VaultClient:
    """One vault, and the threads that wait for it.

    Args:
        root: the deployment's folder, from which the certificates' path begins.
    """

    def __init__(self, settings: VaultSettings, root: Path) -> None:
        self._settings = settings
        self._session = requests.Session()
        self._session.trust_env = False
        pool = adapters.HTTPAdapter(
            pool_connections=1, pool_maxsize=settings.max_connections, max_retries=0, pool_block=True
        )
        self._session.mount("https://", pool)
        self._session.mount("http://", pool)
        # hvac takes the session's word over its own argument.
        self._session.verify = self._verify = str(root / settings.ca) if settings.ca else True
        self._threads = ThreadPoolExecutor(settings.max_connections, "vault")
        self._quiet = Quiet()
        self._mounts: dict[str, Mount] = {}
        self._left: set[Future[Reply]] = set()
        """Requests whose callers have gone."""

    @property
    def patience(self) -> float:
        """Seconds that one request may take."""
        return self._settings.connect_seconds + self._settings.read_seconds

    async def write(
        self,
        path: str,
        data: Mapping[str, Any],
        token: SecretStr,
        *,
        call: str = "",
        late: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Write to `path`. Never repeated by itself.

        `late` hears of an answer that came when nobody waited for it any more.

        Raises:
            VaultFault: it did not do it, or nobody can tell.
        """
        return await self._ask(path, lambda: self._write(path, data, token, call), late)

    async def read(
        self, path: str, token: SecretStr, *, call: str = "", late: Callable[[Reply], None] | None = None
    ) -> Reply:
        """Read `path`: that may make something. Never repeated by itself.

        Raises:
            VaultFault: it did not do it, or nobody can tell.
        """
        return await self._ask(path, lambda: self._read(path, token, call), late)

    async def settled(self) -> None:
        """Wait for requests whose callers have gone; `late` has heard of their answers then."""
        while self._left:
            await asyncio.wait([asyncio.wrap_future(future) for future in self._left])
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Let go of the threads, when what they wait for has ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    async def _ask(self, path: str, work: Callable[[], Reply], late: Callable[[Reply], None] | None) -> Reply:
        mount = self._mount(path)
        self._refuse_in_vain(mount)
        mount.waiting += 1
        try:
            async with asyncio.timeout(self.patience * 2), mount.slots:
                reply = await self._answer(work, late)
        except TimeoutError:
            mount.quiet.saw(answered=False)
            raise VaultFault(
                "vault_slow", "the vault did not answer in time", retryable=True, unanswered=True
            ) from None
        except VaultFault as fault:
            mount.quiet.saw(answered=fault.code != "vault_slow")
            self._quiet.saw(answered=fault.code != "vault_unreachable")
            raise
        finally:
            mount.waiting -= 1
        mount.quiet.saw(answered=True)
        self._quiet.saw(answered=True)
        return reply

    async def _answer(self, work: Callable[[], Reply], late: Callable[[Reply], None] | None) -> Reply:
        try:
            future = self._threads.submit(work)
        except RuntimeError:
            raise VaultFault("vault_unreachable", "the gate is stopping", retryable=True) from None
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._hear_of_late(future, late)
            raise

    def _hear_of_late(self, future: Future[Reply], late: Callable[[Reply], None] | None) -> None:
        """Tell `late`, in the event loop, of an answer that is still on its way."""
        loop = asyncio.get_running_loop()
        self._left.add(future)

        def tell(done: Future[Reply]) -> None:
            self._left.discard(done)
            if late is not None and not done.cancelled() and done.exception() is None:
                late(done.result())

        future.add_done_callback(lambda done: loop.call_soon_threadsafe(tell, done))

    def _mount(self, path: str) -> Mount:
        """Give what is known of the mount of `path`. One that hangs leaves room for the others."""
        name = path.partition("/")[0]
        if name not in self._mounts:
            most = self._settings.max_connections
            self._mounts[name] = Mount(most if name == "auth" else max(1, most // 3))
        return self._mounts[name]

    def _refuse_in_vain(self, mount: Mount) -> None:
        """Do not queue where nobody answers: one request at a time tries it."""
        if mount.waiting >= 4 * self._settings.max_connections:
            raise VaultFault("vault_slow", "too many requests wait for the vault", retryable=True)
        if self._quiet.rests():
            raise VaultFault(
                "vault_unreachable", "the vault has not been reached for a while", retryable=True
            )
        if mount.quiet.rests():
            raise VaultFault("vault_slow", "the vault has not answered for a while", retryable=True)

    def _read(self, path: str, token: SecretStr, call: str) -> Reply:
        return self._translated(lambda vault: vault.get(f"/v1/{path}"), path, token, call)

    def _write(self, path: str, data: Mapping[str, Any], token: SecretStr, call: str) -> Reply:
        return self._translated(lambda vault: vault.post(f"/v1/{path}", json=dict(data)), path, token, call)

    def _translated(
        self, ask: Callable[[RawAdapter], object], path: str, token: SecretStr, call: str
    ) -> Reply:
        try:
            return _reply(ask(self._adapter(token, call)))
        except VaultFault:
            raise
        except (refusals.VaultError, requests.RequestException, ValueError, OSError) as error:
            fault, name = _fault_of(error), type(error).__name__
        # Only now: the error may show what was sent or answered, and what is logged or raised while it is
        # being handled may tell it along.
        log.warning("the vault, asked at %s: %s (%s)", _shape(path), fault.code, name)
        raise fault

    def _adapter(self, token: SecretStr, call: str) -> RawAdapter:
        """One request's own adapter. hvac's client, which looks for tokens, is not used."""
        return _NamingAdapter(
            self._settings.address,
            token=token.get_secret_value(),
            namespace=self._settings.namespace or None,
            timeout=cast("Any", (self._settings.connect_seconds, self._settings.read_seconds)),
            session=self._session,
            verify=cast("Any", self._verify),
            allow_redirects=False,
        ).about(call)


class _NamingAdapter(RawAdapter):
    """Names the call in a header."""

    _call = ""

    def about(self, call: str) -> "_NamingAdapter":
        self._call = call
        return self

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002 - hvac's own signature
        **kwargs: Any,  # noqa: ANN401
    ) -> requests.Response:
        said = dict(headers or {}) | ({CALL_HEADER: self._call} if self._call else {})
        return super().request(method, url, headers=said, raise_exception=raise_exception, **kwargs)


def _reply(answer: object) -> Reply:
    if not isinstance(answer, requests.Response):
        raise TypeError("hvac's raw adapter gives the response")
    if answer.is_redirect or 300 <= answer.status_code < 400:  # noqa: PLR2004 - RFC 9110, section 15.4
        raise VaultFault(
            "vault_redirected",
            "the vault sends us elsewhere, and a token is not taken along",
            retryable=False,
        )
    if answer.status_code == 204 or not answer.content:  # noqa: PLR2004
        return Reply(request=answer.headers.get("X-Vault-Request-Id", ""), data={}, auth={})
    said = _Envelope.model_validate_json(answer.content)
    return Reply(
        request=said.request_id,
        data=said.data or {},
        auth=said.auth or {},
        lease=said.lease_id,
        seconds=said.lease_duration,
    )


def _fault_of(error: Exception) -> VaultFault:  # noqa: PLR0911 - one for each thing that can be the matter
    match error:
        case refusals.VaultDown():
            return VaultFault("vault_sealed", "the vault is sealed", retryable=True)
        case refusals.Forbidden():
            return VaultFault("vault_forbidden", "the vault's policy does not allow it", retryable=False)
        case refusals.Unauthorized():
            return VaultFault("vault_forbidden", "the vault does not know the token", retryable=False)
        case refusals.RateLimitExceeded():
            return VaultFault("vault_rate_limited", "the vault's quota is used up", retryable=True)
        case refusals.InvalidPath():
            return VaultFault("vault_no_such_secret", "the vault has nothing there", retryable=False)
        case refusals.InvalidRequest():
            return VaultFault("vault_refused", "the vault refused the request", retryable=False)
        case requests.exceptions.SSLError():
            return VaultFault("vault_tls", "the vault's certificate is not trusted", retryable=False)
        case requests.exceptions.ConnectTimeout() | requests.exceptions.ConnectionError():
            return VaultFault(
                "vault_unreachable", "the vault cannot be reached", retryable=True, unanswered=True
            )
        case requests.exceptions.Timeout():
            return VaultFault(
                "vault_slow", "the vault did not answer in time", retryable=True, unanswered=True
            )
        case _:
            return VaultFault("vault_error", "the vault failed", retryable=True)


def _shape(path: str) -> str:
    """A path without what may name a caller: its first two parts."""
    return "/".join(path.split("/")[:2])
