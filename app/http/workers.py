"""The processes of one gateway: a supervisor that listens, and workers that accept and answer.

The workers are forked, so that they share what has been imported, and accept from one socket: what
waits there when a worker ends is accepted by another. The supervisor answers nothing itself. It
starts a worker again that has died, and passes SIGTERM and SIGINT on; after SIGHUP it replaces the
workers one by one, each once its successor accepts.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client.multiprocess import mark_process_dead

from app.http.worker_window import WorkerCounts

logger = logging.getLogger(__name__)

# Words between worker and supervisor.
ACCEPTS, RETIRE = b"a", b"r"
# A worker that dies sooner is not started again at once: the next would probably die as well.
SHORT_LIFE_SECONDS = 5.0
BETWEEN_STARTS_SECONDS = 1.0
PASSED_ON = (signal.SIGTERM, signal.SIGINT)

# Runs a worker with its end of the link and its place among the counts; returns an exit code.
RunWorker = Callable[[socket.socket, WorkerCounts], int]


@dataclass(eq=False)
class Worker:
    """A process, the supervisor's end of the link to it, and its place among the counts."""

    pid: int
    link: socket.socket
    place: int
    started: float = field(default_factory=time.monotonic)
    accepts: bool = False
    retires: bool = False


class Supervisor:
    """Runs `number` workers until a signal ends them."""

    def __init__(self, number: int, run_worker: RunWorker) -> None:
        self._number = number
        self._run_worker = run_worker
        self._workers: list[Worker] = []
        # Two live side by side while one replaces the other.
        self._counts = WorkerCounts.share(2 * number)
        self._signals: list[int] = []
        self._stopping = False
        self._replacing: list[Worker] = []
        self._served = False
        self._not_before = 0.0

    def run(self) -> int:
        """Run until every worker has ended; return 1 if none has ever accepted, else 0."""
        woken, waking = socket.socketpair()
        for end in (woken, waking):
            end.setblocking(False)
        signal.set_wakeup_fd(waking.fileno())
        for number in (*PASSED_ON, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signals.append(number))
        try:
            while self._workers or not self._stopping:
                self._start_missing()
                links = {worker.link: worker for worker in self._workers}
                ready, _, _ = select.select([woken, *links], [], [], BETWEEN_STARTS_SECONDS)
                for link in ready:
                    if link is woken:
                        with suppress(BlockingIOError):
                            woken.recv(64)
                    else:
                        self._hear(links[link])
                while self._signals:
                    self._obey(self._signals.pop(0))
                self._replace_next()
        finally:
            signal.set_wakeup_fd(-1)
        return 0 if self._served else 1

    def _start_missing(self) -> None:
        if self._stopping or time.monotonic() < self._not_before:
            return
        while sum(not worker.retires for worker in self._workers) < self._number:
            self._start()

    def _start(self) -> None:
        link, theirs = socket.socketpair()
        taken = {worker.place for worker in self._workers}
        place = next(place for place in range(2 * self._number) if place not in taken)
        pid = os.fork()
        if pid:
            theirs.close()
            self._workers.append(Worker(pid, link, place))
            return
        code = 1
        try:
            # A terminal's Ctrl-C is for the supervisor, which passes it on.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (*PASSED_ON, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            link.close()
            for worker in self._workers:
                worker.link.close()
            code = self._run_worker(theirs, self._counts.of(place))
        except SystemExit as ended:
            logger.critical("a worker cannot start: %s", ended.code)
        except BaseException:
            logger.exception("a worker crashed")
        finally:
            os._exit(code)

    def _hear(self, worker: Worker) -> None:
        """Note that a worker accepts, or that it has ended."""
        with suppress(ConnectionError):
            if worker.link.recv(1) == ACCEPTS:
                worker.accepts = self._served = True
                return
        self._workers.remove(worker)
        worker.link.close()
        _, status = os.waitpid(worker.pid, 0)
        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
        if self._stopping or worker.retires:
            return
        if not self._served:
            self._stop(signal.SIGTERM)  # it says itself what keeps it from starting
            return
        logger.error(
            "worker %d ended with code %d: another is started",
            worker.pid,
            os.waitstatus_to_exitcode(status),
        )
        if time.monotonic() - worker.started < SHORT_LIFE_SECONDS:
            self._not_before = time.monotonic() + BETWEEN_STARTS_SECONDS

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._replacing = [worker for worker in self._workers if not worker.retires]
        else:
            self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopping = True
        for worker in self._workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    def _replace_next(self) -> None:
        """Retire the next worker to be replaced, once its successor accepts."""
        self._replacing = [worker for worker in self._replacing if worker in self._workers]
        if self._stopping or not self._replacing:
            return
        if sum(not worker.retires for worker in self._workers) == self._number:
            self._start()
        elif all(worker.accepts for worker in self._workers):
            retired = self._replacing.pop(0)
            retired.retires = True
            with suppress(ConnectionError):
                retired.link.send(RETIRE)
