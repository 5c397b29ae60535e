"""The gate's own token: it opens runs and ends them, and can read no secret."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from pydantic import SecretStr

from toolgate.backends.vault.client import VaultClient
from toolgate.backends.vault.replies import Reply, VaultFault
from toolgate.core.vault_settings import VaultSettings

T = TypeVar("T")
log = logging.getLogger(__name__)

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_NO_TOKEN: Final = SecretStr("")
_RENEW_AT: Final = 2 / 3
"""Of a token's life."""
_REST_SECONDS: Final = 1.0
"""After a sign-in that was refused: a vault may lock out who tries too often."""


class GateToken:
    """Signs in when it must, one at a time; keeps the token alive, and gets another when it is refused.

    `on_new` hears that another token has taken the place of one.
    """

    def __init__(
        self, client: VaultClient, settings: VaultSettings, root: Path, on_new: Callable[[], None]
    ) -> None:
        self._client, self._settings, self._root, self._on_new = client, settings, root, on_new
        self._token: SecretStr | None = None
        self._had_one = False
        self._renew_at = self._ends_at = 0.0
        self._signing_in: asyncio.Future[SecretStr] | None = None
        self._unwrapped: SecretStr | None = None
        """A secret id that was unwrapped, until a sign-in with it was answered."""
        self._refused: VaultFault | None = None
        self._refused_until = 0.0

    @property
    def signed_in(self) -> bool:
        """Whether there is a token, as far as is known."""
        return self._token is not None and time.monotonic() < self._ends_at

    async def using(self, ask: Callable[[SecretStr], Awaitable[T]]) -> T:
        """Ask with the gate's token; when the vault no longer knows it, once more with a new one.

        Raises:
            VaultFault: the gate cannot sign in, or the request was refused.
        """
        token = await self._current(but=None)
        try:
            return await ask(token)
        except VaultFault as fault:
            if fault.code != "vault_forbidden" or await self._is_good(token):
                raise
        return await ask(await self._current(but=token))

    async def keep(self) -> None:
        """Sign in where that was not done yet; renew the token when two thirds of its life are over.

        Raises:
            VaultFault: it can be neither renewed nor replaced.
        """
        token = self._token
        if token is None:
            await self._current(but=None)
        if token is None or time.monotonic() < self._renew_at:
            return
        try:
            renewed = await self._client.write("auth/token/renew-self", {}, token)
            if self._token is token:
                self._learn(renewed, token)
        except VaultFault as fault:
            log.warning("the gate's token could not be renewed (%s)", fault.code)
            if time.monotonic() >= self._ends_at - self._client.patience:
                await self._current(but=token)

    async def aclose(self) -> None:
        """Give the token back, and with it every run that was opened with it."""
        token, self._token = self._token, None
        if token is not None and time.monotonic() < self._ends_at:
            await self._client.write("auth/token/revoke-self", {}, token)

    async def _is_good(self, token: SecretStr) -> bool:
        try:
            await self._client.read("auth/token/lookup-self", token)
        except VaultFault as fault:
            return fault.code != "vault_forbidden"
        return True

    async def _current(self, *, but: SecretStr | None) -> SecretStr:
        """Give the token; sign in where there is none, or it is the one that will not do.

        Who asks may leave: the one sign-in goes on, because a secret id may open only once.
        """
        token = self._token
        if token is None or token is but or time.monotonic() >= self._ends_at:
            if self._signing_in is None:
                self._signing_in = asyncio.ensure_future(self._sign_in())
                self._signing_in.add_done_callback(self._signed_in)
            token = await asyncio.shield(self._signing_in)
        return token

    def _signed_in(self, done: "asyncio.Future[SecretStr]") -> None:
        self._signing_in = None
        if not done.cancelled():
            done.exception()  # else it is complained of where nobody waits any more

    def _learn(self, reply: Reply, token: SecretStr) -> None:
        seconds = int(reply.auth.get("lease_duration") or 0) or 31_536_000
        began = time.monotonic()
        self._token, self._ends_at, self._renew_at = token, began + seconds, began + seconds * _RENEW_AT

    async def _sign_in(self) -> SecretStr:
        if (fault := self._refused) is not None and time.monotonic() < self._refused_until:
            raise fault
        self._token = None
        try:
            reply = await self._log_in()
        except VaultFault as fault:
            if fault.code == "vault_sign_in":
                self._refused, self._refused_until = fault, time.monotonic() + _REST_SECONDS
            raise
        self._refused = None
        self._learn(reply, reply.token)
        log.info("signed in to the vault by %s", self._settings.sign_in)
        if self._had_one:
            self._on_new()  # with the old token all that was made under it has ended
        self._had_one = True
        return reply.token

    async def _log_in(self) -> Reply:
        settings = self._settings
        try:
            data = {"role": settings.role} | ({} if settings.sign_in == "approle" else {"jwt": self._jwt()})
            if settings.sign_in == "approle":
                data = {"role_id": settings.role, "secret_id": (await self._secret_id()).get_secret_value()}
            reply = await self._client.write(f"auth/{settings.path}/login", data, _NO_TOKEN)
        except VaultFault as fault:
            if fault.code not in {"vault_forbidden", "vault_refused"}:
                raise
            self._unwrapped = None
            log.error(  # noqa: TRY400 - the error has nothing more to say
                "the gate could not sign in to the vault by %s: see docs/how-to/vault.md", settings.sign_in
            )
            problem = "the gate could not sign in to the vault"
            raise VaultFault("vault_sign_in", problem, retryable=False) from None
        self._unwrapped = None
        return reply

    async def _secret_id(self) -> SecretStr:
        said = SecretStr(self._read_file(self._settings.secret_id_file))
        if not self._settings.wrapped:
            return said
        if self._unwrapped is not None:  # it opens once, and the sign-in with it had no answer
            return self._unwrapped
        try:
            reply = await self._client.write("sys/wrapping/unwrap", {}, said)
        except VaultFault as fault:
            if fault.code in {"vault_forbidden", "vault_refused"}:
                log.critical(
                    "the wrapped secret id does not open: it was used, it has expired, or SOMEBODY ELSE HAS "
                    "OPENED IT. Unless this gate did before, destroy that id, and look at the vault's log"
                )
            raise
        self._unwrapped = SecretStr(str(reply.data.get("secret_id", "")))
        return self._unwrapped

    def _jwt(self) -> str:
        return self._read_file(self._settings.jwt_file or SERVICE_ACCOUNT)

    def _read_file(self, name: str) -> str:
        try:
            return (self._root / name).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            log.error("%s cannot be read, and the gate signs in with it (%s)", name, type(error).__name__)  # noqa: TRY400
            problem = "the gate has nothing to sign in to the vault with"
            raise VaultFault("vault_sign_in", problem, retryable=False) from None
