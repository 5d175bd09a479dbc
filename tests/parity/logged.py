"""Answers of generated projects that are logged as a server logs them, at every state that their stores go
through.

Time: pushes happen at instants that their steps name; an answer is given at the machine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from featurestore import clock
from featurestore.errors import RequestError
from featurestore.kernel.roles import KnownAt
from featurestore.serving.request_log import Answered, RequestLog
from featurestore.serving.vectors import FeatureVectors
from featurestore.settings import RequestLogSettings
from tests.parity.projects import Project
from tests.strategies import Question


class Logging:
    """Asks a project, and logs what it answers."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.values = self.requests = 0
        directory = project.directory / ".featurestore" / "requests"
        settings = RequestLogSettings(sample=1.0, queue_rows=10_000_000, queue_bytes=1 << 40)
        self.log = RequestLog(project.store.store, directory, settings, clock.now)

    def __enter__(self) -> Self:
        self.log.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()
        assert (self.log.counts.logged, self.log.counts.dropped) == (self.values, 0)

    def ask(self, asked: Sequence[Question], known_at: KnownAt) -> FeatureVectors | None:
        """One request; None where the view is not filled yet."""
        timed = [question for question in asked if question.as_of is not None]
        try:
            vectors = self._project.online(timed, known_at)
        except RequestError:
            return None
        self.requests += 1
        response = vectors.to_response(full_feature_names=True)
        answered = Answered(f"request {self.requests}", clock.now(), vectors, response, 1)
        self.log.offer(answered)
        self.values += answered.rows
        return vectors
