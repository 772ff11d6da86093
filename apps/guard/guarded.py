"""A request's way through the guard: its route, its key, its limits, its body, its turn; then the app, and its account."""

import asyncio
import logging
from itertools import chain
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from apps.guard import bodies, caps, question
from apps.guard.account import Account, per_replica
from apps.guard.answers import Refusal, failed
from apps.guard.bodies import ClientLeftError
from apps.guard.exchange import Exchange
from apps.guard.fair import FairQueue, Turn
from apps.guard.keeper import Keeper
from apps.guard.keys import Entry
from apps.guard.question import Question
from apps.guard.routes import Access, Routes
from apps.guard.settings import ReplicaGuard
from apps.guard.verifier import Verifier

logger = logging.getLogger("ray.serve")
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_METHODS = ("GET", "HEAD", "POST")
_UNCOUNTED = ("/tokenize", "/detokenize")
_KNOWN = frozenset((_CHAT, _COMPLETIONS, *_UNCOUNTED))
_EVERYBODY = "open"
_NOT_FORWARDED = frozenset((b"authorization", b"x-request-id", b"content-length", b"transfer-encoding"))


class Guarded:
    """The app behind it sees only requests that may be answered. State belongs to one event loop."""

    def __init__(self, app: ASGIApp, settings: ReplicaGuard, keeper: Keeper) -> None:
        args = settings.args
        self._app, self._settings, self._args = app, settings, args
        self._routes = Routes(args)
        self._keeper = keeper
        self._verifier = Verifier(keeper.keys) if keeper.keys else None
        self._accounts: dict[str, tuple[Entry | None, Account]] = {}
        self.queue = FairQueue(settings.capacity, args.queue.waiting, args.queue.waiting_per_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its first header to its line in the audit."""
        self._keeper.watch(self)
        exchange = Exchange.of(scope, send)
        self._keeper.live[exchange] = asyncio.current_task()
        try:
            await self._answer_or_refuse(exchange, scope, receive)
        except ClientLeftError:
            pass
        except asyncio.CancelledError:
            if not exchange.aborted:
                raise
            await self._end(exchange, exchange.aborted)
        except Exception:
            logger.exception("guard: request %s failed", exchange.id)
            await exchange.break_off(Refusal(500, failed(exchange.id), "internal_error", kind="server_error"))
        finally:
            del self._keeper.live[exchange]
            if exchange.access is not Access.ANYBODY:
                self._keeper.note(exchange)

    def forget_wrong_keys(self) -> None:
        """The keys file has changed."""
        if self._verifier:
            self._verifier.forget_wrong()

    async def _end(self, exchange: Exchange, why: Refusal) -> None:
        """The keeper has cancelled the request; where the client takes nothing, returning closes the connection."""
        task = asyncio.current_task()
        if task:
            task.uncancel()
        logger.warning("guard: request %s was ended: %s", exchange.id, why.message)
        if not exchange.stuck:
            await exchange.break_off(why)

    async def _answer_or_refuse(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        try:
            await self._answer(exchange, scope, receive)
        except Refusal as refusal:
            if not exchange.body_read:
                await bodies.discard_body(receive, self._args.bounds.body_bytes)
            await exchange.refuse(refusal)

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        exchange.access, route = self._routes.find(path)
        if exchange.access is Access.NOBODY:
            raise Refusal(404, f"This server has no {scope['method']} {path[:200]}.", "not_found")
        most = self._args.bounds.header_bytes
        if sum(map(len, chain.from_iterable(scope["headers"]))) > most:
            raise Refusal(431, f"The request's headers have more than {most} bytes.", "headers_too_large")
        if scope["method"] not in _METHODS:
            raise Refusal(405, f"{path[:200]} takes {', '.join(_METHODS)}.", "method_not_allowed")
        exchange.route = route
        if exchange.access is Access.ANYBODY:
            await self._app(_forwarded(scope, exchange), receive, exchange.send)
            return
        entry = await self._authenticate(exchange)
        account = exchange.account = self._account(entry)
        if exchange.access is Access.ADMIN and not (entry and entry.admin):
            raise Refusal(403, "This route needs an admin key.", "insufficient_permissions")
        account.begin()
        try:
            await self._answer_known(exchange, entry, path, scope, receive)
        finally:
            account.active -= 1

    async def _authenticate(self, exchange: Exchange) -> Entry | None:
        if self._verifier is None:
            return None
        scheme, _, text = exchange.headers.get(b"authorization", b"").partition(b" ")
        return await self._verifier.verify(text.strip() if scheme.lower() == b"bearer" else None)

    def _account(self, entry: Entry | None) -> Account:
        name = entry.name if entry else _EVERYBODY
        known = self._accounts.get(name)
        if known and known[0] is entry:
            return known[1]
        limits = self._args.limits.overridden_by(entry.limits) if entry else self._args.limits
        part = per_replica(limits, self._settings.replicas)
        account = known[1] if known else Account(name, part)
        account.set_limits(part, entry.weight if entry else 1)
        self._accounts[name] = (entry, account)
        return account

    async def _answer_known(self, exchange: Exchange, entry: Entry | None, path: str, scope: Scope, receive: Receive) -> None:
        if scope["method"] != "POST":
            await self._app(_forwarded(scope, exchange), receive, exchange.send)
            return
        exchange.reads_body = True
        body = await bodies.read_body(exchange.headers.get(b"content-length", b""), receive, self._args.bounds.body_bytes)
        exchange.reads_body, exchange.body_read = False, True
        fields = question.parse(body) if path in _KNOWN or _may_be_json(exchange, body) else {}
        question.check_depth(body, fields, self._args.bounds.json_depth)
        _check_model(fields.get("model"), entry)
        exchange.model = str(fields["model"])[:128] if "model" in fields else None
        if path in (_CHAT, _COMPLETIONS):
            asked = question.ask(body, fields, self._args.bounds, chat=path == _CHAT)
            await self._answer_question(exchange, asked, scope, receive)
            return
        question.check_media(fields, self._args.bounds)
        if path in _UNCOUNTED:
            await self._app(_forwarded(scope, exchange, body), bodies.replaying(body, receive), exchange.send)
        else:
            await self._answer_question(exchange, Question.unknown(body, fields), scope, receive)

    async def _answer_question(self, exchange: Exchange, asked: Question, scope: Scope, receive: Receive) -> None:
        account = exchange.account
        assert account is not None
        account.charge_prompt(asked.prompt_tokens)
        exchange.charged_prompt = asked.prompt_tokens
        turn = None
        try:
            to_set = await caps.max_tokens_to_set(self._app, scope, asked, account.limits, self._settings.context_tokens)
            exchange.hides_usage = asked.stream and not asked.wants_usage
            turn = await self._turn(account, asked, receive)
            exchange.expected_output = account.guess(asked)
            body = question.edited(asked, to_set)
            await self._app(_forwarded(scope, exchange, body), bodies.replaying(body, receive), exchange.send)
        finally:
            cost = exchange.settle()
            if exchange.output_tokens is not None:
                account.learn(exchange.output_tokens / asked.choices)
            if turn:
                self.queue.leave(account.share, turn, cost)

    async def _turn(self, account: Account, asked: Question, receive: Receive) -> Turn:
        """Wait for room in the engine. Raises `Refusal` 429 if there is none in time, `ClientLeftError`."""
        turn = self.queue.enter(account.share, asked.choices, asked.prompt_tokens + account.guess(asked))
        if turn.admitted is None:
            return turn
        leaving = asyncio.ensure_future(receive())  # the body is read: all that can come is that the client leaves
        first: set[asyncio.Future[Any]] = {turn.admitted, leaving}
        try:
            await asyncio.wait(first, timeout=self._args.queue.wait_s, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self.queue.leave(account.share, turn, 0)
            raise
        finally:
            left = leaving.done()
            leaving.cancel()
        if turn.inside and not left:
            return turn
        self.queue.leave(account.share, turn, 0)
        if left:
            raise ClientLeftError
        message = f"The model is busy; the request waited {self._args.queue.wait_s:g} seconds for its turn."
        raise Refusal(429, message, "rate_limit_exceeded", kind="requests", headers={"retry-after": "5"})


def _forwarded(scope: Scope, exchange: Exchange, body: bytes = b"") -> Scope:
    """What the app sees: no key, the id under which both log, and the length of a body that was read."""
    headers = [header for header in scope["headers"] if header[0] not in _NOT_FORWARDED]
    headers.append((b"x-request-id", exchange.id.encode()))
    if exchange.body_read:
        headers.append((b"content-length", b"%d" % len(body)))
    return {**scope, "headers": headers}


def _may_be_json(exchange: Exchange, body: bytes) -> bool:
    """Whatever the client calls it: some handlers look only at the body."""
    return body != b"" and not exchange.headers.get(b"content-type", b"").startswith(b"multipart/")


def _check_model(model: Any, entry: Entry | None) -> None:
    if entry and entry.models is not None and model not in entry.models:
        shown = repr(model)[:200] if model is not None else "that is asked for by default"
        raise Refusal(404, f"The model {shown} does not exist, or this key may not use it.", "model_not_found", param="model")
