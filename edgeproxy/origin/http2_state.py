"""The state of an HTTP/2 connection, of `h2`, but for one thing: what is wrong with a stream ends only that.

`h2` ends the connection for each error. RFC 9113 §5.4.2 asks that only for those that leave its state in
doubt; a malformed head (§8.1.1), a length that is a lie, a frame on a stream that has ended (§5.1), a window
of one stream that overflows (§6.9.1) are for nobody but the request they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2.connection import H2Connection
from h2.events import Event
from h2.exceptions import DenialOfServiceError, InvalidBodyLengthError, ProtocolError
from hpack.exceptions import HPACKError
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PriorityFrame, RstStreamFrame, WindowUpdateFrame

from edgeproxy.errors import OriginError, origin_error

_OF_A_STREAM = (DataFrame, HeadersFrame, PriorityFrame, RstStreamFrame, WindowUpdateFrame)


@dataclass(kw_only=True)
class StreamBroken(Event):
    """The origin broke the rules on one of our streams, which is reset; `size` bytes of the connection's
    window are used up."""

    stream_id: int
    error: OriginError
    size: int


class Connection(H2Connection):
    """As a client. Its frames are parsed, and heads decoded, before `_receive_frame` raises for a stream."""

    def _receive_frame(self, frame: Frame) -> list[Event]:
        try:
            return super()._receive_frame(frame)
        except ProtocolError as error:
            if not self._is_of_a_stream(frame, error):
                raise
            try:
                self.reset_stream(frame.stream_id, error.error_code)
            except ProtocolError:  # closed, to h2; the origin has to hear it all the same
                self._prepare_for_sending([RstStreamFrame(frame.stream_id, error.error_code)])
            size = frame.flow_controlled_length if isinstance(frame, DataFrame) else 0
            return [StreamBroken(stream_id=frame.stream_id, error=_cause(error), size=size)]

    def _is_of_a_stream(self, frame: Frame, error: ProtocolError) -> bool:
        """Is the state that all streams share, tables and windows, as it should be?"""
        return (
            isinstance(frame, _OF_A_STREAM)
            and frame.stream_id % 2 == 1
            and frame.stream_id <= self.highest_outbound_stream_id
            and not isinstance(error, DenialOfServiceError)
            and not isinstance(error.__cause__, HPACKError)
            and self.inbound_flow_control_window >= 0
        )


def _cause(error: ProtocolError) -> OriginError:
    if isinstance(error, InvalidBodyLengthError) and error.actual_length < error.expected_length:
        return origin_error("http_response_incomplete", "the body is shorter than its Content-Length")
    return origin_error("http_protocol_error", str(error))
