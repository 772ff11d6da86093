"""A request's way through the guard: its route, its key, its limits, its body, its turn; then the app, and what it cost."""

import asyncio
import hmac
import logging
import secrets
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from apps.guard import access, bodies, caps, engines, generation_request
from apps.guard.access import Access, Routes
from apps.guard.answers import Refusal, failed
from apps.guard.bodies import ClientLeftError, parse_json
from apps.guard.fair import FairQueue, Ticket
from apps.guard.fields import TABLES
from apps.guard.generation_request import GenerationRequest
from apps.guard.grammar_compiler import GrammarCompiler
from apps.guard.housekeeping import Housekeeping
from apps.guard.key_usage import KeyUsage, per_replica
from apps.guard.keys import Entry
from apps.guard.response_tracker import ResponseTracker
from apps.guard.settings import ReplicaGuard
from apps.guard.verifier import Verifier

logger = logging.getLogger("ray.serve")
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
Forwarded = tuple[Scope, Receive, Send]
"""What the app behind is called with."""
_METHODS = ("GET", "HEAD", "POST")
_EVERYBODY = "open"
_GENERATE_NOTHING = ("/tokenize", "/detokenize")
_INTERVAL = "stream_interval must be 1 for a key with a token limit: a stream's tokens are counted by its events."
_NOT_FORWARDED = frozenset((b"authorization", b"x-request-id", b"content-length", b"transfer-encoding"))


class Admission:
    """The app behind it sees only requests that may be answered. State belongs to one event loop."""

    def __init__(self, app: ASGIApp, settings: ReplicaGuard, housekeeping: Housekeeping) -> None:
        args = settings.args
        self._app, self._settings, self._args = app, settings, args
        self._routes = Routes(args)
        self._housekeeping = housekeeping
        self._verifier = Verifier(housekeeping.keys) if housekeeping.keys else None
        self._usages: dict[str, tuple[Entry | None, KeyUsage]] = {}
        self._salts = secrets.token_bytes(32)  # a replica has a prefix cache of its own, so another may salt otherwise
        self._vocabulary = engines.vocabulary_size(settings.model)
        self.grammars = GrammarCompiler(args.bounds.grammars, settings.tokenizer)
        per_key = args.queue.waiting if args.open else args.queue.waiting_per_key  # open: all clients are one
        self.queue = FairQueue(settings.capacity, args.queue.waiting, per_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its first header to its line in the audit."""
        self._housekeeping.watch(self.queue)
        tracker = ResponseTracker.of(scope, send)
        self._housekeeping.live[tracker] = asyncio.current_task()
        try:
            await self._handle(tracker, scope, receive)
        except ClientLeftError:
            pass
        except asyncio.CancelledError:
            if not tracker.aborted:
                raise
            await self._end(tracker, tracker.aborted)
        except Exception:
            logger.exception("guard: request %s failed", tracker.id)
            await tracker.break_off(Refusal(500, failed(tracker.id), "internal_error", kind="server_error"))
        finally:
            del self._housekeeping.live[tracker]
            if tracker.access is not Access.PUBLIC:
                self._housekeeping.note(tracker)

    async def _end(self, tracker: ResponseTracker, why: Refusal) -> None:
        """Housekeeping has cancelled the request; where the client takes nothing, returning closes the connection."""
        task = asyncio.current_task()
        if task:
            task.uncancel()
        logger.warning("guard: request %s was ended: %s", tracker.id, why.message)
        if not tracker.stuck:
            await tracker.break_off(why)

    async def _handle(self, tracker: ResponseTracker, scope: Scope, receive: Receive) -> None:
        """Admit and forward, or refuse. Frames around the app cost each token of its answer, so admission returns first."""
        try:
            with ExitStack() as taken:
                await self._app(*await self._admit(tracker, scope, receive, taken))
        except Refusal as refusal:
            if not tracker.body_read and not await bodies.discard_body(receive, self._args.bounds.body_bytes):
                refusal = replace(refusal, headers={**refusal.headers, "connection": "close"})
            await tracker.refuse(refusal)

    async def _admit(self, tracker: ResponseTracker, scope: Scope, receive: Receive, taken: ExitStack) -> Forwarded:
        """What the app is called with; what the request has `taken` is given back when it ends. Raises `Refusal`."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        tracker.access, route = self._routes.find(path)
        if self._settings.local:
            access.check_origin(tracker.headers)
        if tracker.access is Access.DENIED:
            raise Refusal(404, f"This server has no {scope['method']} {path[:200]}.", "not_found")
        max_bytes = self._args.bounds.header_bytes
        if sum(map(len, chain.from_iterable(scope["headers"]))) > max_bytes:
            raise Refusal(431, f"The request's headers are larger than {max_bytes} bytes.", "headers_too_large")
        if scope["method"] not in _METHODS:
            raise Refusal(405, f"{path[:200]} accepts {', '.join(_METHODS)}.", "method_not_allowed")
        tracker.route = route
        if tracker.access is Access.PUBLIC:
            return _forwarded(scope, tracker), receive, tracker.send
        entry = await self._authenticate(tracker)
        usage = tracker.usage = self._usage_of(entry)
        if tracker.access is Access.ADMIN and not (entry and entry.admin):
            raise Refusal(403, "This route needs an admin key.", "insufficient_permissions")
        usage.begin()
        taken.callback(usage.end)
        if scope["method"] != "POST":
            send = access.only_allowed_models(entry.models if entry else None, path, tracker.send)
            return _forwarded(scope, tracker), receive, send
        asked = await self._read(tracker, entry, path, receive)
        return await self._admit_generation(tracker, asked, scope, receive, taken)

    async def _authenticate(self, tracker: ResponseTracker) -> Entry | None:
        if self._verifier is None:
            return None
        scheme, _, text = tracker.headers.get(b"authorization", b"").partition(b" ")
        return await self._verifier.verify(text.strip() if scheme.lower() == b"bearer" else None)

    def _usage_of(self, entry: Entry | None) -> KeyUsage:
        name = entry.name if entry else _EVERYBODY
        known = self._usages.get(name)
        if known and known[0] is entry:
            return known[1]
        limits = self._args.limits.overridden_by(entry.limits) if entry else self._args.limits
        part = per_replica(limits, self._settings.replicas)
        usage = known[1] if known else KeyUsage(name)
        usage.set_limits(part, entry.weight if entry else 1)
        self._usages[name] = (entry, usage)
        return usage

    async def _read(self, tracker: ResponseTracker, entry: Entry | None, path: str, receive: Receive) -> GenerationRequest:
        """The request, once its body has come and passed the checks."""
        tracker.reads_body = True
        bounds = self._args.bounds
        body = await bodies.read_body(tracker.headers.get(b"content-length", b""), receive, bounds.body_bytes)
        tracker.reads_body, tracker.body_read = False, True
        is_json = path in TABLES or bodies.may_be_json(tracker.headers.get(b"content-type", b""), body)
        fields = parse_json(body, self._settings.json_items, bounds.json_depth) if is_json else {}
        access.check_model(fields.get("model"), entry.models if entry else None)
        tracker.model = str(fields["model"])[:128] if "model" in fields else None
        if path in (_CHAT, _COMPLETIONS):
            asked = self._fit_to_engine(generation_request.parse(body, fields, bounds, chat=path == _CHAT), tracker)
            engines.check_ids(fields.get("prompt"), self._vocabulary)
            asked = asked._replace(cache_salt=self._cache_salt(entry, fields))
        else:
            generation_request.check_other(path, fields, bounds)
            asked = GenerationRequest.other(body, fields, generates=path not in _GENERATE_NOTHING)
        if is_json and asked.text_bytes > self._settings.text_bytes:
            raise bodies.too_large(self._settings.text_bytes)
        return asked

    def _cache_salt(self, entry: Entry | None, fields: dict[str, Any]) -> str | None:
        """What parts the prefix cache: each key's own, and within it what the client gives. None: the cache is everybody's."""
        given = fields.get("cache_salt")
        name = entry.name if entry and self._args.cache_salt == "per_key" else ""
        if not name and not given:
            return None
        return hmac.digest(self._salts, f"{name}\0{given or ''}".encode(), "sha256").hex()

    async def _admit_generation(
        self, tracker: ResponseTracker, asked: GenerationRequest, scope: Scope, receive: Receive, taken: ExitStack
    ) -> Forwarded:
        usage = tracker.usage
        assert usage is not None
        if usage.tokens and asked.fields.get("stream_interval", 1) not in (1, None):
            raise Refusal(400, _INTERVAL, "invalid_value", param="stream_interval")
        await self.grammars.check(asked.fields, usage.name)
        usage.charge_prompt(asked.prompt_tokens)
        tracker.charged_prompt = asked.prompt_tokens
        taken.callback(self._settle, tracker, usage, asked)
        to_set = None
        if asked.generates:
            to_set = await caps.max_tokens_to_set(self._app, scope, asked, usage.limits, self._settings.context_tokens)
        tracker.hides_usage = asked.stream and not asked.wants_usage
        tracker.unfinished = asked.choices if asked.stream else None
        tracker.ticket = await self._wait_for_room(usage, asked, receive)
        limit = asked.max_tokens if asked.max_tokens is not None else to_set
        tracker.max_output = usage.estimate(asked) if limit is None else limit * asked.choices
        by_turn = self._settings.priorities and tracker.route in (_CHAT, _COMPLETIONS)
        body = generation_request.edited(asked, to_set, int(tracker.ticket.start) if by_turn else None)
        return _forwarded(scope, tracker, body), bodies.replaying(body, receive), tracker.send

    def _settle(self, tracker: ResponseTracker, usage: KeyUsage, asked: GenerationRequest) -> None:
        cost = tracker.settle()
        if tracker.output_tokens is not None:
            usage.update_mean(tracker.output_tokens / asked.choices)
        if tracker.ticket:
            self.queue.leave(usage.flow, tracker.ticket, cost)

    def _fit_to_engine(self, asked: GenerationRequest, tracker: ResponseTracker) -> GenerationRequest:
        flavour = self._settings.flavour
        names = engines.without_effect(asked.fields, flavour, drop=self._args.ineffective_fields == "warn")
        if not names:
            return asked
        tracker.warning = engines.warning(names, flavour)
        return generation_request.without(asked, names)

    async def _wait_for_room(self, usage: KeyUsage, asked: GenerationRequest, receive: Receive) -> Ticket:
        """Wait for room in the engine. Raises `Refusal` 429 if there is none in time, `ClientLeftError`."""
        ticket = self.queue.enter(usage.flow, asked.choices, asked.prompt_tokens + usage.estimate(asked))
        if ticket.admitted is None:
            return ticket
        leaving = asyncio.ensure_future(receive())  # the body is read: all that can come is that the client leaves
        first: set[asyncio.Future[Any]] = {ticket.admitted, leaving}
        try:
            await asyncio.wait(first, timeout=self._args.queue.wait_s, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self.queue.leave(usage.flow, ticket, 0)
            raise
        finally:
            left = leaving.done()
            leaving.cancel()
        if ticket.inside and not left:
            return ticket
        self.queue.leave(usage.flow, ticket, 0)
        if left:
            raise ClientLeftError
        message = f"The model is busy; the request waited {self._args.queue.wait_s:g} seconds for its turn."
        raise Refusal(429, message, "rate_limit_exceeded", kind="requests", headers={"retry-after": "5"})


def _forwarded(scope: Scope, tracker: ResponseTracker, body: bytes = b"") -> Scope:
    """What the app sees: no key, the id under which both log, and the length of a body that was read."""
    headers = [header for header in scope["headers"] if header[0] not in _NOT_FORWARDED]
    headers.append((b"x-request-id", tracker.id.encode()))
    if tracker.body_read:
        headers.append((b"content-length", b"%d" % len(body)))
    return {**scope, "headers": headers}
