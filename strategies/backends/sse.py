"""Read a server-sent event stream, byte by byte if it must be: bytes in, the data of whole events out.

Bytes are cut only at line ends, so a UTF-8 character split over two network reads comes out whole. Knows
nothing of JSON, of HTTP or of what an event means.
"""

MAX_EVENT = 1 << 20
"""Most bytes of one event, in bytes: a server that never ends its event must not fill the memory."""


class EventTooLong(ValueError):
    """An event grew past the cap: this is no answer of a language model."""


class EventDecoder:
    """Feed it what the network gives; it returns the data of each event that is complete.

    Lines end in LF, CRLF or CR; several `data:` lines of one event are joined by a newline; comments and
    other fields are passed over; an event that the stream's end cuts off is never given out. Source: the HTML
    standard, "Server-sent events", parsing an event stream.
    """

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._max = max_event
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and return the data of the events that they complete.

        Raises EventTooLong when an unfinished event holds more than `max_event` bytes.
        """
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        # A CR at the very end has ended its line already; an LF that follows it belongs to it.
        self._after_cr = self._after_cr or (not self._rest and bool(lines) and lines[-1].endswith(b"\r"))
        events = [data for line in lines if (data := self._line(line.rstrip(b"\r\n"))) is not None]
        if self._size + len(self._rest) > self._max:
            raise EventTooLong(f"an event of more than {self._max} bytes")
        return events

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        if line.startswith(b"data:") or line == b"data":
            value = line[5:].removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._max:
                raise EventTooLong(f"an event of more than {self._max} bytes")
        return None
