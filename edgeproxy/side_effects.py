"""What an answer means for what is stored beside it: one to HEAD, and one to an unsafe request."""

from __future__ import annotations

from edgeproxy.cache.invalidation import invalidation_targets
from edgeproxy.cache.rule import CacheRule
from edgeproxy.cache.settle import head_update
from edgeproxy.cache.tags import invalidated_groups
from edgeproxy.trip import Trip


def update_by_head(trip: Trip, rule: CacheRule, now: float) -> None:
    """What an answer to HEAD means for the stored response to GET (RFC 9111 §4.3.5)."""
    job = trip.job
    store, request = job.visit.edge.store, job.visit.request
    entry, _ = store.find(job.visit.key(rule, job.ctx), request.headers)
    if entry is None or trip.status not in (200, 410):
        return
    update = head_update(rule, request, entry, trip.status, trip.headers, job.ctx.now, now, job.ctx.ahead)
    if update is None:
        entry.expire(now)
        store.changed(entry)
    else:
        store.renew(update, trip.position)


def invalidate(trip: Trip) -> None:
    """What an answer to an unsafe request makes doubtful (RFC 9111 §4.4), cached route or not."""
    visit = trip.job.visit
    store, request = visit.edge.store, visit.request
    for target in invalidation_targets(request, trip.status, trip.headers):
        store.invalidate(visit.edge.routes.stored_as(target))
    for group in invalidated_groups(request, trip.status, trip.headers):
        store.invalidate_group(group)
