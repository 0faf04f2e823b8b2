"""A policy of one's own. In a route:

policies:
  - use: "office_hours:OfficeHours"
    with: {opens: 8, closes: 18, tell_origin: true}
    when: "method != GET"
    mode: shadow
"""

from __future__ import annotations

from pydantic import Field, model_validator

from edgeproxy.context import Context, Edit, Op, Verdict
from edgeproxy.http.message import Request, Response
from edgeproxy.http.replies import problem
from edgeproxy.units import Model


class Hours(Model):
    """What stands under `with`. Unknown keys and wrong types are refused when the file is loaded."""

    opens: int = Field(ge=0, le=23)
    """Hour of the day, UTC."""
    closes: int = Field(ge=1, le=24)
    """Hour of the day, UTC; later than `opens`."""
    tell_origin: bool = False
    """Tell the origin until when it is open."""

    @model_validator(mode="after")
    def _opens_first(self) -> Hours:
        if self.closes <= self.opens:
            raise ValueError("closes must come after opens")
        return self


class OfficeHours:
    """Refuses requests outside of office hours."""

    Config = Hours  # what `with` is read as; without it, `with` becomes keyword arguments
    name = "office_hours"  # the word in metrics, log and explain
    reasons = ("closed",)  # why it answers, in metrics
    fails_open = True  # what an exception in here means, unless the route says `on_error`
    asserted = (b"x-open-until",)  # clients' copies of these fields never reach the origin

    def __init__(self, config: Hours) -> None:
        self._config = config
        self._edit = Edit(Op.SET, b"X-Open-Until", b"%d" % config.closes)

    def __call__(self, request: Request, ctx: Context, /) -> Response | None:
        config = self._config
        hour = int(ctx.wall // 3600) % 24
        is_open = config.opens <= hour < config.closes
        if ctx.notes is not None:  # somebody asks for an explanation
            verdict = Verdict.ALLOW if is_open else Verdict.REFUSE
            ctx.note(
                self.name,
                verdict,
                f"it is {hour} h",
                f"{config.opens}-{config.closes}",
                (("hour", str(hour)),),
            )
        if not is_open:
            return problem(request, ctx, 403, "closed", "Come back tomorrow.")
        if config.tell_origin:
            ctx.to_origin.append(self._edit)
            ctx.key_parts += (b"open-until:" + self._edit.value,)  # the origin may answer otherwise
        return None
